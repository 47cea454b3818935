"""Ask a device: `python ask.py mqtt://HOST:PORT DEVICE QUESTION [FIELDS]`; needs paho-mqtt 2."""

import json
import queue
import sys
import uuid
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.properties import PacketTypes, Properties

broker, device, question, fields = urlsplit(sys.argv[1]), *(*sys.argv[2:], "{}")[:3]
me, prompt_id = broker.username or "ask", str(uuid.uuid4())
prompt = json.dumps({"messages": [{"role": "user", "content": question}], **json.loads(fields)})
properties = Properties(PacketTypes.PUBLISH)
properties.ResponseTopic = f"edgekit/v1/res/{me}/{prompt_id}"
properties.MessageExpiryInterval, properties.UserProperty = 300, ("ek-id", prompt_id)  # seconds
events, shown, wait = queue.Queue(), "", 15
mqtt = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
mqtt.username_pw_set(broker.username, broker.password)
mqtt.on_message = lambda *a: events.put(a[2])
mqtt.on_connect = mqtt.on_publish = mqtt.on_disconnect = lambda *a: a[3].value and events.put(a[3])
try:
    mqtt.connect(broker.hostname, broker.port or 1883)
    mqtt.subscribe(properties.ResponseTopic, qos=1)  # first, on the same connection
    mqtt.publish(f"edgekit/v1/req/dev/{device}/{me}", prompt, qos=1, properties=properties)
    mqtt.loop_start()
    while isinstance(event := events.get(timeout=wait), paho.MQTTMessage):
        body, wait = json.loads(event.payload), 300
        kind = dict(event.properties.UserProperty)["ek-kind"]
        if kind == "delta":
            shown += (piece := body["choices"][0]["delta"].get("content", ""))  # none: it thinks
            print(piece, end="", flush=True)
        elif kind == "final":  # all of the text, whatever was lost before
            text = (said := body["choices"][0]["message"])["content"] or json.dumps(said)
            sys.exit(print(text.removeprefix(shown)))
        elif kind == "error":
            sys.exit(f"{device}: {body['error']['code']}, {body['error']['message']}")
    sys.exit(f"{device} does not answer: {event}")  # a reason code, 0x10 where nobody is there
except (OSError, queue.Empty) as error:
    sys.exit(f"{device} does not answer: {error or f'nothing came for {wait} s'}")
