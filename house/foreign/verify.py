"""Verifies received webhooks with the Standard Webhooks library. Reads one line of JSON per webhook from standard input:

    {"secret": "whsec_...", "headers": {"webhook-id": ..., "webhook-timestamp": ..., "webhook-signature": ...}, "body": "base64"}

and prints for each its id and its type. A signature that does not verify, or one that verifies although a byte of the body was changed, ends it with
an error.
"""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    received = json.loads(line)
    body = base64.b64decode(received["body"])
    webhook = Webhook(received["secret"])
    payload = webhook.verify(body, received["headers"])
    try:
        webhook.verify(body + b" ", received["headers"])
        sys.exit("a changed body was verified")
    except WebhookVerificationError:
        pass
    print(json.dumps({"webhook_id": received["headers"]["webhook-id"], "type": payload["type"]}))
