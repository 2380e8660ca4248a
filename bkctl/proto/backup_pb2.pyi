from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApiVersion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    V1: _ClassVar[ApiVersion]
    V1TTL: _ClassVar[ApiVersion]
    V2: _ClassVar[ApiVersion]
V1: ApiVersion
V1TTL: ApiVersion
V2: ApiVersion

class BackupMeta(_message.Message):
    __slots__ = ("cluster_id", "cluster_version", "files", "start_version", "end_version", "is_raw_kv", "raw_ranges", "ddls", "br_version", "version", "file_index", "schema_index", "raw_range_index", "backup_result", "api_version", "is_txn_kv", "backup_size")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    START_VERSION_FIELD_NUMBER: _ClassVar[int]
    END_VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_RAW_KV_FIELD_NUMBER: _ClassVar[int]
    RAW_RANGES_FIELD_NUMBER: _ClassVar[int]
    DDLS_FIELD_NUMBER: _ClassVar[int]
    BR_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_INDEX_FIELD_NUMBER: _ClassVar[int]
    RAW_RANGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    BACKUP_RESULT_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_TXN_KV_FIELD_NUMBER: _ClassVar[int]
    BACKUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    cluster_version: str
    files: _containers.RepeatedCompositeFieldContainer[File]
    start_version: int
    end_version: int
    is_raw_kv: bool
    raw_ranges: _containers.RepeatedCompositeFieldContainer[RawRange]
    ddls: bytes
    br_version: str
    version: int
    file_index: MetaFile
    schema_index: MetaFile
    raw_range_index: MetaFile
    backup_result: str
    api_version: ApiVersion
    is_txn_kv: bool
    backup_size: int
    def __init__(self, cluster_id: _Optional[int] = ..., cluster_version: _Optional[str] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., start_version: _Optional[int] = ..., end_version: _Optional[int] = ..., is_raw_kv: bool = ..., raw_ranges: _Optional[_Iterable[_Union[RawRange, _Mapping]]] = ..., ddls: _Optional[bytes] = ..., br_version: _Optional[str] = ..., version: _Optional[int] = ..., file_index: _Optional[_Union[MetaFile, _Mapping]] = ..., schema_index: _Optional[_Union[MetaFile, _Mapping]] = ..., raw_range_index: _Optional[_Union[MetaFile, _Mapping]] = ..., backup_result: _Optional[str] = ..., api_version: _Optional[_Union[ApiVersion, str]] = ..., is_txn_kv: bool = ..., backup_size: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "sha256", "start_key", "end_key", "start_version", "end_version", "crc64xor", "total_kvs", "total_bytes", "cf", "size", "cipher_iv")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    START_KEY_FIELD_NUMBER: _ClassVar[int]
    END_KEY_FIELD_NUMBER: _ClassVar[int]
    START_VERSION_FIELD_NUMBER: _ClassVar[int]
    END_VERSION_FIELD_NUMBER: _ClassVar[int]
    CRC64XOR_FIELD_NUMBER: _ClassVar[int]
    TOTAL_KVS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CF_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CIPHER_IV_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: bytes
    start_key: bytes
    end_key: bytes
    start_version: int
    end_version: int
    crc64xor: int
    total_kvs: int
    total_bytes: int
    cf: str
    size: int
    cipher_iv: bytes
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[bytes] = ..., start_key: _Optional[bytes] = ..., end_key: _Optional[bytes] = ..., start_version: _Optional[int] = ..., end_version: _Optional[int] = ..., crc64xor: _Optional[int] = ..., total_kvs: _Optional[int] = ..., total_bytes: _Optional[int] = ..., cf: _Optional[str] = ..., size: _Optional[int] = ..., cipher_iv: _Optional[bytes] = ...) -> None: ...

class RawRange(_message.Message):
    __slots__ = ("start_key", "end_key", "cf")
    START_KEY_FIELD_NUMBER: _ClassVar[int]
    END_KEY_FIELD_NUMBER: _ClassVar[int]
    CF_FIELD_NUMBER: _ClassVar[int]
    start_key: bytes
    end_key: bytes
    cf: str
    def __init__(self, start_key: _Optional[bytes] = ..., end_key: _Optional[bytes] = ..., cf: _Optional[str] = ...) -> None: ...

class MetaFile(_message.Message):
    __slots__ = ("meta_files", "data_files", "raw_ranges")
    META_FILES_FIELD_NUMBER: _ClassVar[int]
    DATA_FILES_FIELD_NUMBER: _ClassVar[int]
    RAW_RANGES_FIELD_NUMBER: _ClassVar[int]
    meta_files: _containers.RepeatedCompositeFieldContainer[File]
    data_files: _containers.RepeatedCompositeFieldContainer[File]
    raw_ranges: _containers.RepeatedCompositeFieldContainer[RawRange]
    def __init__(self, meta_files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., data_files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., raw_ranges: _Optional[_Iterable[_Union[RawRange, _Mapping]]] = ...) -> None: ...
