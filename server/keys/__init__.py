"""Secret pairs of signing clients: made, listed, revoked, and found again by who checks a signature."""
