"""
A guest with root on one interface, for tests: sends any frame, keeps all that arrive.
One JSON command a line on stdin, one JSON answer a line on stdout:
  {"send": ["hex", ...]}             sends the frames              -> {"sent": n}
  {"seen": true}                     frames since the last "seen"  -> {"seen": ["hex", ...]}
  {"await": "hex part", "ms": 1000}  waits for a frame that holds it, without forgetting any -> {"found": true}
  {"flood": "hex", "every": 200}     sends the frame with a counter behind it, every so many microseconds; {"flood": null} ends it
"""
import json
import socket
import sys
import threading
import time

link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 0))
# Beyond what others may ask for: on a busy machine frames that came would else be lost here, and taken for lost on the way.
SO_RCVBUFFORCE = 33
link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
frames, first_unseen, arrived = [], 0, threading.Condition()
flooding = None


def receive():
    while True:
        data, where = link.recvfrom(65535)
        if where[2] == socket.PACKET_OUTGOING:
            continue
        with arrived:
            frames.append(data.hex())
            arrived.notify_all()


def flood(frame, every, stop):
    count = 0
    while not stop.is_set():
        try:
            link.send(frame + count.to_bytes(8, 'big'))
        except OSError:
            pass
        count += 1
        time.sleep(every / 1e6)


threading.Thread(target=receive, daemon=True).start()
print(json.dumps({'ready': True}), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    answer = {}
    if 'send' in command:
        for text in command['send']:
            try:
                link.send(bytes.fromhex(text))
            except OSError as error:
                answer['error'] = str(error)
        answer['sent'] = len(command['send'])
    elif 'seen' in command:
        with arrived:
            answer['seen'] = frames[first_unseen:]
            first_unseen = len(frames)
    elif 'await' in command:
        until = time.monotonic() + command['ms'] / 1000
        with arrived:
            at = first_unseen
            found = False
            while not found:
                found = any(command['await'] in text for text in frames[at:])
                at = len(frames)
                left = until - time.monotonic()
                if found or left <= 0:
                    break
                arrived.wait(left)
        answer['found'] = found
    elif 'flood' in command:
        if flooding is not None:
            flooding.set()
            flooding = None
        if command['flood'] is not None:
            flooding = threading.Event()
            frame = bytes.fromhex(command['flood'])
            threading.Thread(target=flood, args=(frame, command['every'], flooding), daemon=True).start()
        answer['flood'] = True
    print(json.dumps(answer), flush=True)
