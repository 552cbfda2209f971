"""What happens to objects elsewhere: S3's notifications, sent by other stores' webhooks, become events of functions here."""
