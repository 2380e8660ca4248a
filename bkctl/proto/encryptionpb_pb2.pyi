from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncryptionMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[EncryptionMethod]
    PLAINTEXT: _ClassVar[EncryptionMethod]
    AES128_CTR: _ClassVar[EncryptionMethod]
    AES192_CTR: _ClassVar[EncryptionMethod]
    AES256_CTR: _ClassVar[EncryptionMethod]
    SM4_CTR: _ClassVar[EncryptionMethod]
UNKNOWN: EncryptionMethod
PLAINTEXT: EncryptionMethod
AES128_CTR: EncryptionMethod
AES192_CTR: EncryptionMethod
AES256_CTR: EncryptionMethod
SM4_CTR: EncryptionMethod

class FileInfo(_message.Message):
    __slots__ = ("key_id", "iv", "method")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    IV_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    key_id: int
    iv: bytes
    method: EncryptionMethod
    def __init__(self, key_id: _Optional[int] = ..., iv: _Optional[bytes] = ..., method: _Optional[_Union[EncryptionMethod, str]] = ...) -> None: ...

class FileDictionary(_message.Message):
    __slots__ = ("files",)
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FileInfo
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FileInfo, _Mapping]] = ...) -> None: ...
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.MessageMap[str, FileInfo]
    def __init__(self, files: _Optional[_Mapping[str, FileInfo]] = ...) -> None: ...

class DataKey(_message.Message):
    __slots__ = ("key", "method", "creation_time", "was_exposed")
    KEY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CREATION_TIME_FIELD_NUMBER: _ClassVar[int]
    WAS_EXPOSED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    method: EncryptionMethod
    creation_time: int
    was_exposed: bool
    def __init__(self, key: _Optional[bytes] = ..., method: _Optional[_Union[EncryptionMethod, str]] = ..., creation_time: _Optional[int] = ..., was_exposed: bool = ...) -> None: ...

class KeyDictionary(_message.Message):
    __slots__ = ("keys", "current_key_id")
    class KeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: DataKey
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[DataKey, _Mapping]] = ...) -> None: ...
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.MessageMap[int, DataKey]
    current_key_id: int
    def __init__(self, keys: _Optional[_Mapping[int, DataKey]] = ..., current_key_id: _Optional[int] = ...) -> None: ...

class MasterKeyPlaintext(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MasterKeyFile(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class MasterKeyKms(_message.Message):
    __slots__ = ("vendor", "key_id", "region", "endpoint")
    VENDOR_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    vendor: str
    key_id: str
    region: str
    endpoint: str
    def __init__(self, vendor: _Optional[str] = ..., key_id: _Optional[str] = ..., region: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class MasterKey(_message.Message):
    __slots__ = ("plaintext", "file", "kms")
    PLAINTEXT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    KMS_FIELD_NUMBER: _ClassVar[int]
    plaintext: MasterKeyPlaintext
    file: MasterKeyFile
    kms: MasterKeyKms
    def __init__(self, plaintext: _Optional[_Union[MasterKeyPlaintext, _Mapping]] = ..., file: _Optional[_Union[MasterKeyFile, _Mapping]] = ..., kms: _Optional[_Union[MasterKeyKms, _Mapping]] = ...) -> None: ...

class EncryptedContent(_message.Message):
    __slots__ = ("metadata", "content", "master_key", "iv", "ciphertext_key")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MASTER_KEY_FIELD_NUMBER: _ClassVar[int]
    IV_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_KEY_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.ScalarMap[str, bytes]
    content: bytes
    master_key: MasterKey
    iv: bytes
    ciphertext_key: bytes
    def __init__(self, metadata: _Optional[_Mapping[str, bytes]] = ..., content: _Optional[bytes] = ..., master_key: _Optional[_Union[MasterKey, _Mapping]] = ..., iv: _Optional[bytes] = ..., ciphertext_key: _Optional[bytes] = ...) -> None: ...
