"""Two processes that share a program: plain values are copied, the rest stays where it is and is asked from afar.

The examiner holds the unit tests, the program its own objects. What crosses is JSON: numbers, text, bytes, lists,
tuples, sets and dicts by value; any other object as a number under which its owner keeps it. The receiver holds a `Far`
for it, which asks the owner for every operation. Values arrive as the exact built-in types, so an object that claims to
equal everything, a patched `repr` or a subclass that lies is nothing but a value here. Nothing is ever unpickled.

The examiner's side is guarded: of its own objects the program may call functions and read or set public attributes;
names that begin with an underscore, which lead to code and globals, are refused. The idea is RPyC's netrefs, cut down
to what a test needs and made one-sided in trust.
"""

from __future__ import annotations

import builtins
import json
import operator
import os
import struct
import sys

DEEPEST, MOST, LARGEST = 60, 200_000, 64 << 20
_UNARY = {"__neg__": operator.neg, "__pos__": operator.pos, "__abs__": abs, "__invert__": operator.invert,
          "__len__": len, "__bool__": bool, "__repr__": repr, "__str__": str, "__hash__": hash, "__iter__": iter,
          "__next__": next, "__int__": int, "__float__": float, "__index__": operator.index,
          "__reversed__": reversed, "__round__": round}  # fmt: skip
_BINARY = {"__eq__": operator.eq, "__ne__": operator.ne, "__lt__": operator.lt, "__le__": operator.le,
           "__gt__": operator.gt, "__ge__": operator.ge, "__add__": operator.add, "__sub__": operator.sub,
           "__mul__": operator.mul, "__truediv__": operator.truediv, "__floordiv__": operator.floordiv,
           "__mod__": operator.mod, "__pow__": operator.pow, "__and__": operator.and_, "__or__": operator.or_,
           "__xor__": operator.xor, "__matmul__": operator.matmul, "__getitem__": operator.getitem,
           "__delitem__": operator.delitem, "__contains__": operator.contains}  # fmt: skip
_REFLECTED = {f"__r{name[2:]}": name for name in ("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__",
                                                  "__mod__", "__pow__", "__and__", "__or__", "__xor__")}  # fmt: skip


class Gone(BaseException):
    """The other process has ended. Not an Exception: no test can expect it."""


class Far:
    """An object of the other process."""

    __slots__ = ("_key", "_peer")

    def __init__(self, peer, key):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_key", key)

    def __getattr__(self, name):
        return self._peer.ask("get", self, name)

    def __setattr__(self, name, value):
        self._peer.ask("set", self, name, value)

    def __delattr__(self, name):
        self._peer.ask("del", self, name)

    def __call__(self, *args, **kwargs):
        return self._peer.call(self, args, kwargs)

    def __setitem__(self, key, value):
        self._peer.ask("setitem", self, key, value)

    def __instancecheck__(self, value):
        return isinstance(value, Far) and self._peer.ask("isinstance", value, self) is True

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Far) and self._peer.guarded:
            return False  # a plain value never equals an object that may claim anything
        return self._peer.ask("op", "__eq__", self, other)

    def __ne__(self, other):
        return not self == other

    def __enter__(self):
        return self._peer.ask("get", self, "__enter__")()

    def __exit__(self, *_):
        return self._peer.ask("get", self, "__exit__")(None, None, None)


def _forwarded():
    for name in _UNARY:
        setattr(Far, name, lambda self, name=name: self._peer.ask("op", name, self))
    for name in _BINARY:
        if name not in ("__eq__", "__ne__"):
            setattr(Far, name, lambda self, other, name=name: self._peer.ask("op", name, self, other))
    for reflected, name in _REFLECTED.items():
        setattr(Far, reflected, lambda self, other, name=name: self._peer.ask("op", name, other, self))


_forwarded()


class Peer:
    """One end. guarded: the objects of this end are protected from the other."""

    def __init__(self, fd, guarded=False):
        self._fd, self.guarded, self._trusting = fd, guarded, not guarded
        self._kept, self._numbers, self._far, self._kinds = {}, {}, {}, {}

    # ---- values ------------------------------------------------------------------------------------------------------

    def encode(self, value, depth=0):
        """JSON of a value. Subclasses of plain types leave as the plain value they hold."""
        if value is None or value is True or value is False:
            return value
        if depth > DEEPEST:
            return self._reference(value)
        if isinstance(value, Far):
            return {"own": object.__getattribute__(value, "_key")}
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return {"i": hex(int.__index__(value))}
        if isinstance(value, float):
            return {"f": float.__repr__(value)}
        if isinstance(value, complex):
            return {"c": [float.__repr__(value.real), float.__repr__(value.imag)]}
        if isinstance(value, bytes | bytearray):
            return {"b" if isinstance(value, bytes) else "ba": bytes(value).decode("latin-1")}
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                if kind.__len__(value) > MOST:
                    return self._reference(value)
                return {kind.__name__: [self.encode(item, depth + 1) for item in kind.__iter__(value)]}
        if isinstance(value, dict) and dict.__len__(value) <= MOST:
            return {"dict": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in dict.items(value)]}
        if type(value) is type(sys) and value.__name__ in sys.stdlib_module_names:
            return {"module": value.__name__}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"raised": self._kind(value)}
        known = getattr(builtins, getattr(value, "__name__", ""), None) if isinstance(value, type) else None
        return {"type": value.__name__} if known is value and known is not None else self._reference(value)

    def _reference(self, value):
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._kept)
            self._kept[number] = value  # kept for the life of the process: the identity stays true
        return {"far": number}

    def _kind(self, kind):
        base = next(c for c in kind.__mro__ if getattr(builtins, c.__name__, None) is c)
        return {"name": kind.__name__, "base": base.__name__, "key": self._reference(kind)["far"]}

    def decode(self, data):
        """The value of JSON that the other end sent: exact plain types, and `Far` for the rest."""
        if not isinstance(data, dict):
            return data
        ((kind, body),) = data.items()
        if kind == "i":
            return int(body, 16)
        if kind == "f":
            return float(body)
        if kind == "c":
            return complex(float(body[0]), float(body[1]))
        if kind in ("b", "ba"):
            return (bytes if kind == "b" else bytearray)(body.encode("latin-1"))
        if kind in ("list", "tuple", "set", "frozenset"):
            return getattr(builtins, kind)([self.decode(item) for item in body])
        if kind == "dict":
            return {self.decode(key): self.decode(value) for key, value in body}
        if kind == "module" and body in sys.stdlib_module_names and self._trusting:
            return __import__(body)
        if kind == "type" and isinstance(getattr(builtins, body), type):
            return getattr(builtins, body)
        if kind == "raised":
            return self._exception(body)
        if kind == "own":
            return self._kept[body]
        if kind == "far":
            if body not in self._far:
                self._far[body] = Far(self, body)
            return self._far[body]
        raise ValueError(f"a value of kind {kind!r}")

    def _exception(self, body):
        """A class to raise here for an exception class of the other end; the same one every time."""
        base = getattr(builtins, body["base"])
        if not (isinstance(base, type) and issubclass(base, Exception)):
            base = Exception  # not SystemExit or KeyboardInterrupt: those would end the examination
        if body["name"] == base.__name__:
            return base
        if body["key"] not in self._kinds:
            self._kinds[body["key"]] = type(str(body["name"]), (base,), {})
        return self._kinds[body["key"]]

    # ---- questions ---------------------------------------------------------------------------------------------------

    def ask(self, what, *values):
        """One operation of the other end. Raises what it raised there."""
        self._send({"ask": what, "values": [self.encode(value) for value in values]})
        return self.decode(self._answer()["value"])

    def call(self, far, args, kwargs):
        """Calls a function of the other end; what it did to lists, sets and dicts it was given happens here too."""
        self._send({"ask": "call", "values": [self.encode(v) for v in (far, args, kwargs)]})
        answer = self._answer()
        for position, now in answer.get("changed", ()):
            mine, new = args[position], self.decode(now)
            if type(new) is not type(mine):
                continue
            if isinstance(mine, list | bytearray):
                mine[:] = new
            else:
                mine.clear()
                mine.update(new)
        return self.decode(answer["value"])

    def _answer(self):
        """The answer to what was asked; questions of the other end in between are answered."""
        while True:
            message = self._receive()
            if "ask" in message:
                self._reply(message)
            elif "raise" in message:
                kind = self._exception(message["raise"])
                raise kind(*[self.decode(argument) for argument in message["args"]])
            else:
                return message

    def _reply(self, message):
        try:
            if self.guarded and not any(
                type(v) is dict and "own" in v for v in message["values"][: 1 + (message["ask"] != "call")]
            ):
                raise TypeError("not an object that was given away")
            reply = self._do(message["ask"], [self.decode(value) for value in message["values"]])
        except Gone:
            raise
        except BaseException as error:
            args = [arg for arg in error.args if isinstance(arg, str | int | float)][:4]
            reply = {"raise": self._kind(type(error)), "args": [self.encode(arg) for arg in args]}
        self._send(reply)

    def _do(self, what, values):
        """An operation that the other end wants of an object of this one."""
        if what == "call":
            function, args, kwargs = values
            if self.guarded and not callable(function):
                raise TypeError("not callable")
            shown = [
                (i, json.dumps(self.encode(a))) for i, a in enumerate(args) if type(a) in (list, dict, set, bytearray)
            ]
            value = function(*args, **kwargs)
            changed = [[i, now] for i, before in shown if json.dumps(now := self.encode(args[i])) != before]
            return {"value": self.encode(value), "changed": changed}
        if what in ("get", "set", "del"):
            name = values[1]
            if self.guarded and (name.startswith("_") or callable(values[0])):
                raise AttributeError(name)
            action = {"get": getattr, "set": setattr, "del": delattr}[what]
            return {"value": self.encode(action(*values))}
        if what == "setitem":
            values[0][values[1]] = values[2]
            return {"value": None}
        if what == "isinstance":
            return {"value": isinstance(*values)}
        if what == "op":
            name, *operands = values
            return {"value": self.encode((_UNARY | _BINARY)[name](*operands))}
        raise ValueError(f"no operation {what!r}")

    # ---- the wire ----------------------------------------------------------------------------------------------------

    def _send(self, message):
        body = json.dumps(message).encode("ascii")
        body = struct.pack(">I", len(body)) + body
        try:
            while body:
                body = body[os.write(self._fd, body) :]
        except OSError:
            raise Gone from None

    def _receive(self):
        def read(count):
            data = bytearray()
            while len(data) < count:
                try:
                    part = os.read(self._fd, min(count - len(data), 1 << 20))
                except OSError:
                    part = b""
                if not part:
                    raise Gone
                data += part
            return data

        (length,) = struct.unpack(">I", read(4))
        if length > LARGEST:
            raise Gone
        return json.loads(read(length))

    # ---- the two ends ------------------------------------------------------------------------------------------------

    def serve(self, space):
        """The program's end: tells its names, then answers until the examiner is gone."""
        own = {name: value for name, value in space.items() if not (name.startswith("__") and name.endswith("__"))}
        self._send({"names": {name: self.encode(value) for name, value in own.items()}})
        try:
            while True:
                message = self._receive()
                if "ask" in message:
                    self._reply(message)
        except Gone:
            os._exit(0)

    def names(self):
        """The examiner's end: the names that the program defines or imported, as values of here."""
        names = self._receive()["names"]
        self._trusting = (
            True  # the standard library's modules are looked up here, under the names they were imported as
        )
        try:
            return {name: self.decode(value) for name, value in names.items()}
        finally:
            self._trusting = not self.guarded
