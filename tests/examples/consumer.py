import grpc
from loam.v1 import event_pb2, event_pb2_grpc

key = open("loam-data/admin.key").read().strip()
auth = (("authorization", f"Bearer {key}"),)
events = event_pb2_grpc.EventServiceStub(grpc.insecure_channel("127.0.0.1:8080"))

request = event_pb2.WatchRequest(consumer="my-consumer", committed=True)
for message in events.Watch(request, metadata=auth):
    if message.HasField("event") and message.event.HasField("uplink"):
        uplink = message.event.uplink
        print(message.event.dev_eui, uplink.fcnt_up, uplink.object_json or uplink.payload.hex())
    # Store first, then acknowledge.
    events.Acknowledge(event_pb2.AcknowledgeRequest(consumer="my-consumer", cursor=message.cursor), metadata=auth)
