"""
What passes at every cable of a network namespace, for tests: counts the frames that hold what it is told to watch for.
One JSON command a line on stdin, one JSON answer a line on stdout:
  {"watch": "hex part"}              counts such frames from now on  -> {"watching": true}
  {"send": "hex", "from": "d0"}      sends a frame out of the interface  -> {"sent": true}
  {"seen": "hex part"}               after every frame that passed before -> {"seen": {"d0 in": 5, "d2 out": 5}, "lost": 0}
"In" is from a machine into the namespace, "out" is to a machine; of a bridge, "in" is up to the namespace itself.
"""
import json
import socket
import struct
import sys
import threading

ALL, SO_RCVBUFFORCE, SOL_PACKET, PACKET_STATISTICS = 3, 33, 263, 6
cables = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
cables.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
watched, marks, passed = {}, 0, threading.Condition()


def receive():
    while True:
        data, where = cables.recvfrom(65535)
        way = 'out' if where[2] == socket.PACKET_OUTGOING else 'in'
        with passed:
            for part, counts in watched.items():
                if part in data:
                    place = f'{where[0]} {way}'
                    counts[place] = counts.get(place, 0) + 1
                    passed.notify_all()


def send(interface, frame):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0))
        link.send(frame)


def all_that_passed():
    """A frame of its own comes behind them in the queue."""
    global marks
    marks += 1
    part = b'a mark %d of this test;' % marks
    with passed:
        watched[part] = {}
    send('lo', bytes(12) + b'\x88\xb5' + part + bytes(40))
    with passed:
        passed.wait_for(lambda: watched[part])
        del watched[part]


threading.Thread(target=receive, daemon=True).start()
print(json.dumps({'ready': True}), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    if 'watch' in command:
        with passed:
            watched[bytes.fromhex(command['watch'])] = {}
        answer = {'watching': True}
    elif 'send' in command:
        send(command['from'], bytes.fromhex(command['send']))
        answer = {'sent': True}
    else:
        all_that_passed()
        lost = struct.unpack('II', cables.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        with passed:
            answer = {'seen': dict(watched[bytes.fromhex(command['seen'])]), 'lost': lost}
    print(json.dumps(answer), flush=True)
