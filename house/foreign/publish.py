"""Publishes one event of each of several types, as a service written in Python would: with the usual Kafka and Avro packages and nothing of ours
but the .avsc files (`hookferry schemas show ENTITY`). docs/publishing.md explains each step.

    publish.py --bootstrap 127.0.0.1:9092 --prefix hookferry. --schemas schemas --company acme [--registry http://127.0.0.1:8081]

With a schema registry, Confluent's AvroSerializer registers the schemas and frames the events. Prints one line of JSON per event once all are acknowledged; exits 1 if one was not.
"""

import argparse
import datetime as dt
import decimal
import io
import json
import sys
import uuid

import fastavro
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

UTC = dt.timezone.utc


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def single_object(text):
    """Encodes events by a schema, behind Avro's single-object frame."""
    text = json.loads(text)
    canonical = fastavro.schema.to_parsing_canonical_form(text)
    # fastavro gives the fingerprint as hexadecimal in the order of the wire, little-endian.
    head = b"\xc3\x01" + bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    schema = fastavro.parse_schema(text)

    def encode(event, topic):
        value = io.BytesIO()
        value.write(head)
        fastavro.schemaless_writer(value, schema, event)
        return value.getvalue()

    return encode


def registered(text, registry):
    """Encodes events by a schema, behind the id that the registry has for it under TOPIC-value."""
    serializer = AvroSerializer(registry, text)
    return lambda event, topic: serializer(event, SerializationContext(topic, MessageField.VALUE))


def meta(event_type, ids, kind, action, entity_id, version, company, **more):
    now = dt.datetime.now(UTC)
    return {
        "eventId": "evt_" + uuid.uuid4().hex, "eventType": event_type, "entity": kind, "action": action, "groupId": ids[0], "typeId": ids[1],
        "entityId": entity_id, "entityVersion": version, "occurredAt": now, "publishedAt": now, "tenantId": "python", "companyId": company,
        "companyName": "Harbour Light Tours", "schemaVersion": "1", **more,
    }


def money(text):
    return {"amount": decimal.Decimal(text), "currency": "EUR"}


def events(company):
    """(entity, event) pairs. Fields that have a default may be left out."""
    now = dt.datetime.now(UTC)
    booking = {
        "bookingId": "py-1001", "status": "CONFIRMED", "soldAt": now, "channel": {"kind": "ONLINE"}, "timeZone": "Europe/Lisbon", "currency": "EUR",
        "totals": {"subTotal": money("150.50"), "tax": money("19.57"), "total": money("170.07")},
        "activities": [{
            "lineId": "1", "activityId": "300", "name": "Passeio ao pôr do sol", "kind": "REGULAR", "status": "ACTIVE", "localDate": dt.date(2026, 7, 14),
            "startTime": dt.time(18, 30), "passengers": [{"category": "ADULT", "count": 2, "unitPrice": money("75.25")}],
            "subTotal": money("150.50"), "tax": money("19.57"), "total": money("170.07"),
        }],
    }
    yield "booking", {"meta": meta("booking.creation", (100, 100), "BOOKING", "CREATION", "py-1001", 1, company), "data": booking}
    cancelled = {**booking, "status": "CANCELLED", "cancellation": {"cancelledAt": now, "by": {"kind": "CUSTOMER"}, "reason": "Weather"}}
    yield "booking", {"meta": meta("booking.cancellation", (100, 102), "BOOKING", "CANCELLATION", "py-1001", 2, company), "data": cancelled, "previous": booking}
    before = {"customerId": "py-7", "firstName": "Tomás", "email": "old@mail.example"}
    change = {"path": "/email", "before": '"old@mail.example"', "after": '"new@mail.example"'}
    yield "customer", {
        "meta": meta("customer.amendment", (200, 201), "CUSTOMER", "AMENDMENT", "py-7", 5, company, changes=[change]),
        "data": {**before, "email": "new@mail.example", "updatedAt": now}, "previous": before,
    }
    check_in = {
        "checkInId": "ci-1", "bookingId": "py-1001", "activityId": "300", "activityName": "Passeio", "localDate": dt.date(2026, 7, 14), "status": "CHECKED_IN",
        "previousStatus": "NOT_CHECKED_IN", "method": "TICKET_SCAN", "changedAt": now, "timeZone": "Europe/Lisbon",
        "scan": {"ticketCode": "TK-1", "result": "ACCEPTED", "scannedAt": now},
    }
    yield "check_in", {"meta": meta("check_in.recorded", (700, 700), "CHECK_IN", "CHECK_IN", "py-1001", 1, company), "data": check_in}
    slot = {"localDate": dt.date(2026, 7, 14), "departureTime": dt.time(18, 30), "status": "LIMITED", "available": 3, "booked": 21, "capacity": 24}
    inventory = {"activityId": "300", "activityName": "Passeio", "rangeStart": dt.date(2026, 7, 14), "rangeEnd": dt.date(2026, 7, 14), "slots": [slot], "timeZone": "Europe/Lisbon"}
    yield "inventory", {"meta": meta("inventory.change", (600, 600), "INVENTORY", "UPDATE", "300", 9, company), "data": inventory}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bootstrap", required=True)
    args.add_argument("--prefix", default="hookferry.")
    args.add_argument("--schemas", required=True, help="folder of the *_event.avsc files")
    args.add_argument("--company", required=True)
    args.add_argument("--registry", help="base URL of a Confluent-compatible schema registry; without one events carry their schema's fingerprint")
    args = args.parse_args()
    registry = SchemaRegistryClient({"url": args.registry}) if args.registry else None

    producer = Producer({
        "bootstrap.servers": args.bootstrap,
        "partitioner": "murmur2_random",  # as Java's clients; librdkafka's own default places keys elsewhere
        "enable.idempotence": True,  # implies acks=all
        "delivery.timeout.ms": 30000,
    })
    published, failed = [], []
    for entity, event in events(args.company):
        text, topic = read(f"{args.schemas}/{entity}_event.avsc"), f"{args.prefix}events.{entity}"
        value = (registered(text, registry) if registry else single_object(text))(event, topic)
        m = event["meta"]

        def acknowledged(err, record, m=m, frame=value[:1].hex()):
            if err is not None:
                failed.append(f"{m['eventId']}: {err}")
            else:
                published.append({"event_id": m["eventId"], "type": m["eventType"], "entity_id": m["entityId"], "topic": record.topic(), "partition": record.partition(), "frame": frame})

        producer.produce(
            topic, key=f"{m['companyId']}/{m['entityId']}", value=value, on_delivery=acknowledged,
            headers={
                "ce_specversion": "1.0", "ce_id": m["eventId"], "ce_type": m["eventType"], "ce_source": f"/companies/{m['companyId']}",
                "ce_subject": m["entityId"], "ce_time": m["occurredAt"].isoformat(timespec="milliseconds"),
            },
        )
    producer.flush(40)
    for line in published:
        print(json.dumps(line))
    for line in failed:
        print("not accepted:", line, file=sys.stderr)
    return 1 if failed or not published else 0


if __name__ == "__main__":
    sys.exit(main())
