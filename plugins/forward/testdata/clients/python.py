"""Sends n events with fluent-logger: python.py HOST PORT N MODE

HOST may be unix:///path. MODE is made of the words nano and async, with + between
them. One event is larger than a socket's buffer.
"""
import sys

from fluent import asyncsender, sender

host, port, n, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split("+")
make = asyncsender.FluentSender if "async" in mode else sender.FluentSender
kwargs = {"queue_maxsize": n + 1} if "async" in mode else {}
s = make("py", host=host, port=port, bufmax=64 << 20, nanosecond_precision="nano" in mode, **kwargs)
for i in range(n):
    t = 1790000000 + i / 1000.0 if "nano" in mode else 1790000000 + i // 1000
    if not s.emit_with_time("app", t, {"log": "line %d" % i, "n": i, "pad": "x" * (50000 if i == n // 2 else 10)}):
        sys.exit("event %d: %s" % (i, s.last_error))
s.close()
