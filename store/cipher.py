"""
Sealing what is at rest: AES-256-GCM under a ring of keys, each text bound to its place.

What is sealed has one of three forms, all of which name their key:

* bytes: a mark, the key's id, the nonce, the text and its tag;
* text, also within JSON: ``tw1:``, the id in hexadecimal, the same in Base64;
* a document whose keys stay, because SQL merges and looks by them, and whose texts are each sealed
  alone (`seal_values`): equal ones at equal paths are equal when sealed, so that containment finds them.

A place is what the text belongs to (`at`): moved elsewhere it does not open. `CLEAR` seals nothing, for
a server without keys.
"""

import base64
import hashlib
import hmac
import itertools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.errors import InvalidInputError, UnreadableError
from store.json import dump_json

#: What sealed bytes begin with; no MessagePack, JSON, text or picture does.
MARK: Final = b"\xc1tw\x01"
#: What sealed text begins with.
TEXT_MARK: Final = "tw1:"
#: The only key of a sealed document, beside those that stay in the clear.
SEALED: Final = "$sealed"
#: The code of the error for what is in the clear.
NOT_ENCRYPTED: Final = "not_encrypted"
#: Bytes that sealing adds to bytes.
OVERHEAD: Final = 36

_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = len(MARK) + _ID_BYTES
_TEXT_HEAD: Final = len(TEXT_MARK) + 2 * _ID_BYTES + 1
_KEY_BYTES: Final = (16, 24, 32)
_LENGTH: Final = "A key for encryption has 16, 24 or 32 bytes, as they are or in Base64"
#: In what a nonce is not random: whoever made it, and how many it made.
_COUNT_BYTES: Final = 4

#: Keys of metadata, at its top, that SQL reads or compares by name: ids, times, enumerated words, and who
#: may see it.
CLEAR_KEYS: Final = frozenset(
    {
        "assistant_id",
        "chat_type",
        "continues_run_id",
        "created_by",
        "cron_id",
        "deleted_at",
        "graph_id",
        "import_under_way",
        "langgraph_auth_user_id",
        "members",
        "owner",
        "parents",
        "reply_id",
        "run_id",
        "source",
        "status",
        "thread_id",
        "title_source",
        "user_id",
    }
)


def at(*parts: str) -> bytes:
    """The place of a text: a table or a stream first, then what names it there for ever."""
    return "\0".join(parts).encode("utf-8", "surrogatepass")


def open_name(cipher: "Cipher", name: str) -> str:
    """
    The name of a session, as ``session_name`` of the database tells it: that may be none, or a number.

    Raises:
        UnreadableError: It is sealed, and cannot be opened.
    """
    is_sealed = cipher.is_on and name.startswith(TEXT_MARK)
    return str(cipher.open_values(name, ["name"])) if is_sealed else name


class Cipher:
    """
    Seals nothing and opens nothing: all values stay as they are. `KeyRing` is the one that seals.

    Every `place` is made by `at`. What is opened names the place that it was sealed for.
    """

    #: Whether anything is sealed; only to leave out work, never to decide what is right.
    is_on: ClassVar[bool] = False

    @property
    def key_id(self) -> str | None:
        """Of the key that it seals with, if it does; it tells nothing of it."""
        return None

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Seal bytes, as different ones each time."""
        return data

    def seal_same(self, data: bytes, place: bytes) -> bytes:
        """Seal bytes, equal ones at one place as equal ones: for what is compared with what is there."""
        return data

    def open(self, data: bytes, place: bytes) -> bytes:
        """
        Open sealed bytes.

        Raises:
            UnreadableError: They are not sealed, or not for this place, or by a key that is not known.
        """
        return data

    def seal_text(self, text: str, place: bytes) -> str:
        """Seal text, equal ones at one place as equal ones; the empty one stays."""
        return text

    def open_text(self, text: str, place: bytes) -> str:
        """Open sealed text; raises as `open`."""
        return text

    def seal_json(self, value: Any, place: bytes, *, shown: Mapping[str, Any] | None = None) -> Any:
        """
        Seal a JSON value as one; None and empty ones stay.

        Args:
            shown: What SQL reads of it: kept beside it, in the clear, and not looked at when it is opened.

        Raises:
            InvalidInputError: The value has something that JSON cannot hold.
        """
        return value

    def open_json(self, value: Any, place: bytes) -> Any:
        """Open a sealed JSON value; raises as `open`."""
        return value

    def seal_values(self, document: Any, path: Sequence[str] = ()) -> Any:
        """
        Seal the texts in a JSON value one by one; keys, numbers and words like true stay.

        What is below one of the clear keys, which are those of metadata, stays. Bound to the path, not to the row: rows copy and
        merge them in SQL, and `forms` finds them.

        Args:
            path: The keys that lead to it in the column.
        """
        return document

    def open_values(self, document: Any, path: Sequence[str] = ()) -> Any:
        """Open what `seal_values` sealed; raises as `open`."""
        return document

    def forms(self, document: Any) -> list[Any]:
        """How a value may lie in a column of `seal_values`: under each of the keys; the newest first."""
        return [document]

    def blind(self, text: str, purpose: str) -> bytes:
        """16 bytes that stand for a text in an index, by the newest key; without one, of no secret."""
        return hashlib.blake2b(text.encode(), digest_size=16, person=_person(purpose)).digest()

    def blinds(self, text: str, purpose: str) -> list[bytes]:
        """What `blind` gives for each of the keys, the newest first."""
        return [self.blind(text, purpose)]

    def is_current(self, data: bytes | str) -> bool:
        """Whether bytes or a text are sealed by the newest key, or need no sealing."""
        return True

    @property
    def heads(self) -> tuple[bytes, str]:
        """What bytes and what text begin with that are sealed by the newest key."""
        return b"", ""

    def lenient(self) -> "Cipher":
        """One that opens what it can: a text or a JSON value that it cannot is an empty one."""
        return self


#: For a server without keys.
CLEAR: Final = Cipher()


class _Key:
    """One key of the ring: its id, and the keys that are derived from it."""

    def __init__(self, secret: bytes) -> None:
        derived = HKDF(SHA256(), 3 * 32 + _ID_BYTES, None, b"threadwell at rest").derive(secret)
        self.aes = AESGCM(derived[:32])
        self.nonces = derived[32:64]
        self.blinds = derived[64:96]
        self.id = derived[96:]
        self.head = MARK + self.id
        self.text_head = f"{TEXT_MARK}{self.id.hex()}:"

    def nonce(self, data: bytes, place: bytes) -> bytes:
        """A nonce that only the same text at the same place has."""
        digest = hashlib.blake2b(key=self.nonces, digest_size=_NONCE_BYTES)
        digest.update(len(place).to_bytes(8, "big"))
        digest.update(place)
        digest.update(data)
        return digest.digest()


class _Nonces:
    """
    Nonces that never come twice: 8 random bytes, and a count.

    Random ones alone would meet after some thousand million, and cost a system call each.
    """

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        self._lock = threading.Lock()

    def _begin(self) -> None:
        self._state = os.urandom(_NONCE_BYTES - _COUNT_BYTES), itertools.count()

    def next(self) -> bytes:
        first, counts = self._state
        count = next(counts)
        if count >> (8 * _COUNT_BYTES):
            with self._lock:
                if self._state[1] is counts:
                    self._begin()
            return self.next()
        return first + count.to_bytes(_COUNT_BYTES, "big")


_NONCES: Final = _Nonces()


class KeyRing(Cipher):
    """
    Seals with the first key, opens with all of them.

    Args:
        secrets: Of 16, 24 or 32 bytes each, the newest first.
        clear_keys: Keys of documents whose values stay in the clear, beside `CLEAR_KEYS`.
        accepts_clear: What is in the clear is read as it is: only while a database is being sealed.

    Raises:
        InvalidInputError: There is no key, or one has another length, or is there twice.
    """

    is_on = True

    def __init__(
        self,
        secrets: Sequence[bytes],
        *,
        clear_keys: Iterable[str] = (),
        accepts_clear: bool = False,
    ) -> None:
        if not secrets or any(len(secret) not in _KEY_BYTES for secret in secrets):
            raise InvalidInputError(_LENGTH)
        keys = [_Key(secret) for secret in secrets]
        self._keys = {key.id: key for key in keys}
        if len(self._keys) < len(keys):
            raise InvalidInputError("A key for encryption is given twice")
        self._newest = keys[0]
        self.clear_keys = CLEAR_KEYS.union(clear_keys)
        #: Whoever knows that nothing is in the clear any more may say so.
        self.accepts_clear = accepts_clear
        #: While `accepts_clear`: what names a key that is not known was sealed by one, as others were taken
        #: out before. Otherwise it only looks so.
        self.may_lack_keys = False

    @property
    def ids(self) -> list[str]:
        """Of the keys, the newest first; they tell nothing of them."""
        return [key_id.hex() for key_id in self._keys]

    @property
    def key_id(self) -> str:
        """Of the key that it seals with; it tells nothing of it."""
        return self.ids[0]

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Seal bytes, as different ones each time."""
        key = self._newest
        nonce = _NONCES.next()
        return key.head + nonce + key.aes.encrypt(nonce, data, place)

    def seal_same(self, data: bytes, place: bytes) -> bytes:
        """Seal bytes, equal ones at one place as equal ones."""
        return self._same(self._newest, data, place)

    def open(self, data: bytes, place: bytes) -> bytes:
        """Open sealed bytes."""
        if not data.startswith(MARK):
            return bytes(self._clear(data))
        key = self._key(data[len(MARK) : _HEAD_BYTES])
        nonce, sealed = data[_HEAD_BYTES:][:_NONCE_BYTES], data[_HEAD_BYTES + _NONCE_BYTES :]
        try:
            return key.aes.decrypt(nonce, sealed, place)
        except (InvalidTag, ValueError) as exc:
            raise _not_here() from exc

    def seal_text(self, text: str, place: bytes) -> str:
        """Seal text; the empty one stays."""
        return self._text(self._newest, _encoded(text), place) if text else text

    def open_text(self, text: str, place: bytes) -> str:
        """Open sealed text."""
        return self._opened(text, place).decode() if text else text

    def seal_json(self, value: Any, place: bytes, *, shown: Mapping[str, Any] | None = None) -> Any:
        """Seal a JSON value as one."""
        if value is None or value in ({}, []):
            return value
        return {
            **(shown or {}),
            SEALED: self._text(self._newest, dump_json(value, sort_keys=True), place),
        }

    def open_json(self, value: Any, place: bytes) -> Any:
        """Open a sealed JSON value."""
        if value is None or value in ({}, []):
            return value
        text = value.get(SEALED) if isinstance(value, dict) else None
        if not isinstance(text, str) or not text.startswith(TEXT_MARK):
            return self._clear(value)
        if (parsed := self._parsed(text)) is None:
            return value
        return orjson.loads(_decrypted(*parsed, place))

    def seal_values(self, document: Any, path: Sequence[str] = ()) -> Any:
        """Seal the texts in a JSON value one by one."""
        return self._sealed(self._newest, document, _path(path))

    def open_values(self, document: Any, path: Sequence[str] = ()) -> Any:
        """Open what `seal_values` sealed."""
        return self._values(document, _path(path))

    def forms(self, document: Any) -> list[Any]:
        """How a value may lie in a column of `seal_values`."""
        found = []
        for key in self._keys.values():
            form = self._sealed(key, document, b"")
            if form not in found:
                found.append(form)
        if self.accepts_clear and document not in found:
            found.append(document)
        return found

    def blind(self, text: str, purpose: str) -> bytes:
        """16 bytes that stand for a text in an index, by the newest key."""
        return _blind(self._newest, text, purpose)

    def blinds(self, text: str, purpose: str) -> list[bytes]:
        """The same by each of the keys."""
        return [_blind(key, text, purpose) for key in self._keys.values()]

    def is_current(self, data: bytes | str) -> bool:
        """Whether it is sealed by the newest key."""
        if isinstance(data, bytes):
            return data.startswith(self._newest.head)
        return not data or data.startswith(self._newest.text_head)

    @property
    def heads(self) -> tuple[bytes, str]:
        """What bytes and what text begin with that are sealed by the newest key."""
        return self._newest.head, self._newest.text_head

    def lenient(self) -> Cipher:
        """One that opens what it can."""
        return _Lenient(self)

    # ------------------------------------------------------------------ parts

    def _key(self, key_id: bytes) -> _Key:
        key = self._keys.get(key_id)
        if key is None:
            raise UnreadableError("It is encrypted by a key that this server does not have")
        return key

    def _clear(self, value: Any) -> Any:
        if not self.accepts_clear:
            raise in_the_clear()
        return value

    @staticmethod
    def _same(key: _Key, data: bytes, place: bytes) -> bytes:
        nonce = key.nonce(data, place)
        return key.head + nonce + key.aes.encrypt(nonce, data, place)

    @staticmethod
    def _text(key: _Key, data: bytes, place: bytes) -> str:
        nonce = key.nonce(data, place)
        sealed = nonce + key.aes.encrypt(nonce, data, place)
        return key.text_head + base64.b64encode(sealed).decode()

    def _opened(self, text: str, place: bytes) -> bytes:
        parsed = self._parsed(text)
        return text.encode() if parsed is None else _decrypted(*parsed, place)

    def _parsed(self, text: str) -> tuple[_Key, bytes] | None:
        """The key of a sealed text, and what it sealed; None if it is in the clear, and may be."""
        if not text.startswith(TEXT_MARK):
            self._clear(text)
            return None
        key_id, data = _parts(text)
        is_of_lost_key = bool(key_id) and self.may_lack_keys
        if self.accepts_clear and key_id not in self._keys and not is_of_lost_key:
            return None  # somebody wrote what only looks so
        if not key_id:
            raise _not_here()
        return self._key(key_id), data

    def _sealed(self, key: _Key, value: Any, path: bytes) -> Any:
        if isinstance(value, str):
            return self._text(key, _encoded(value), path) if value else value
        if isinstance(value, dict):
            return {
                name: item
                if not path and name in self.clear_keys
                else self._sealed(key, item, _below(path, str(name)))
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._sealed(key, item, path) for item in value]
        if value is None or type(value) in (bool, int, float):
            return value
        # An id or a time is a text when it is kept.
        return self._sealed(key, orjson.loads(dump_json(value)), path)

    def _values(self, value: Any, path: bytes) -> Any:
        kind = type(value)
        if kind is str:
            return self._opened(value, path).decode() if value else value
        if kind is dict:
            return {
                name: self._values_in_the_clear(item, _below(path, name))
                if not path and name in self.clear_keys
                else self._values(item, _below(path, name))
                for name, item in value.items()
            }
        if kind is list:
            return [self._values(item, path) for item in value]
        return value

    def _values_in_the_clear(self, value: Any, path: bytes) -> Any:
        """What is below a clear key: as it is, but for what was sealed before the key was one."""
        kind = type(value)
        if kind is str and value.startswith(TEXT_MARK):
            with suppress(UnreadableError):  # it only looks so
                return self._opened(value, path).decode()
        if kind is dict:
            return {
                name: self._values_in_the_clear(item, _below(path, name))
                for name, item in value.items()
            }
        if kind is list:
            return [self._values_in_the_clear(item, path) for item in value]
        return value


class _Lenient(KeyRing):
    """A ring as it is now; what it cannot open is told as empty, and never as it lies there."""

    def __init__(self, ring: KeyRing) -> None:
        vars(self).update(vars(ring))

    def open_text(self, text: str, place: bytes) -> str:
        try:
            return super().open_text(text, place)
        except UnreadableError:
            return ""

    def open_json(self, value: Any, place: bytes) -> Any:
        try:
            return super().open_json(value, place)
        except UnreadableError:
            return {}

    def _values(self, value: Any, path: bytes) -> Any:
        if not isinstance(value, str):
            return super()._values(value, path)
        try:
            return super()._values(value, path)
        except UnreadableError:
            return ""


def _parts(text: str) -> tuple[bytes, bytes]:
    """The id of the key that a sealed text names, and what it sealed; nothing if it only begins so."""
    try:
        key_id = bytes.fromhex(text[len(TEXT_MARK) : _TEXT_HEAD - 1])
        data = base64.b64decode(text[_TEXT_HEAD:], validate=True)
    except ValueError:
        return b"", b""
    return (key_id, data) if len(key_id) == _ID_BYTES else (b"", b"")


def _decrypted(key: _Key, data: bytes, place: bytes) -> bytes:
    try:
        return key.aes.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], place)
    except (InvalidTag, ValueError) as exc:
        raise _not_here() from exc


def secret_of(text: str) -> bytes:
    """
    The key that a setting has: 16, 24 or 32 bytes as they are, or Base64 or hexadecimal of so many.

    Raises:
        InvalidInputError: It is neither.
    """
    if len(secret := text.encode()) in _KEY_BYTES:
        return secret
    for decode in (bytes.fromhex, _from_base64):
        try:
            if len(secret := decode(text)) in _KEY_BYTES:
                return secret
        except ValueError:
            continue
    raise InvalidInputError(_LENGTH)


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _path(keys: Sequence[str]) -> bytes:
    path = b""
    for key in keys:
        path = _below(path, key)
    return path


def _below(path: bytes, key: str) -> bytes:
    # SQL tells one or the other as the name of a session.
    if not path and key == "generated_title":
        key = "name"
    return path + b"\0" + key.encode("utf-8", "replace")


def _encoded(text: str) -> bytes:
    try:
        # As everywhere in jsonb, which has no place for NUL.
        return text.replace("\0", "\ufffd").encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError("The input has a character that cannot be stored") from exc


def _blind(key: _Key, text: str, purpose: str) -> bytes:
    name = f"{purpose}\0{text}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.blinds, name, "sha256")[:16]


def _person(purpose: str) -> bytes:
    return purpose.encode()[:16]


def in_the_clear() -> UnreadableError:
    """The error for what is not sealed, and is to be."""
    return UnreadableError("It is not encrypted, and everything is to be", code=NOT_ENCRYPTED)


def _not_here() -> UnreadableError:
    return UnreadableError(
        "It was changed, or does not belong where it is, and cannot be decrypted"
    )
