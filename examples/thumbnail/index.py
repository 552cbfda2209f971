"""Makes a thumbnail of each picture that comes into a bucket, in the bucket that the variable TARGET names. Python 2.7 and 3."""

import os

from PIL import Image
from qcloud_cos import CosConfig, CosS3Client

SIZE = (128, 128)


def client():
    # made for each call, since the credentials belong to the sandbox
    env = os.environ
    config = CosConfig(
        Region=env["TENCENTCLOUD_REGION"],
        SecretId=env["TENCENTCLOUD_SECRETID"],
        SecretKey=env["TENCENTCLOUD_SECRETKEY"],
        Token=env["TENCENTCLOUD_SESSIONTOKEN"],
    )
    return CosS3Client(config)


def main_handler(event, context):
    made = []
    for record in event["Records"]:
        place = record["cos"]["cosBucket"]
        bucket = place["name"] + "-" + str(place["appid"])
        # "/APPID/BUCKET/the/key"
        key = record["cos"]["cosObject"]["key"][len("/" + str(place["appid"]) + "/" + place["name"] + "/") :]
        print("thumbnail of a picture in " + bucket)
        made.append(thumbnail(client(), bucket, key))
    return made


def thumbnail(cos, bucket, key):
    source, target = "/tmp/source", "/tmp/thumbnail.png"
    cos.get_object(Bucket=bucket, Key=key)["Body"].get_stream_to_file(source)
    picture = Image.open(source)
    picture.thumbnail(SIZE)
    picture.save(target)
    name = os.path.splitext(key)[0] + ".png"
    with open(target, "rb") as data:
        cos.put_object(Bucket=os.environ["TARGET"], Key=name, Body=data, ContentType="image/png")
    return name
