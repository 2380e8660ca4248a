from bkctl.proto import eraftpb_pb2 as _eraftpb_pb2
from bkctl.proto import metapb_pb2 as _metapb_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Normal: _ClassVar[PeerState]
    Applying: _ClassVar[PeerState]
    Tombstone: _ClassVar[PeerState]
    Merging: _ClassVar[PeerState]
    Unavailable: _ClassVar[PeerState]
Normal: PeerState
Applying: PeerState
Tombstone: PeerState
Merging: PeerState
Unavailable: PeerState

class StoreIdent(_message.Message):
    __slots__ = ("cluster_id", "store_id", "api_version")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    store_id: int
    api_version: int
    def __init__(self, cluster_id: _Optional[int] = ..., store_id: _Optional[int] = ..., api_version: _Optional[int] = ...) -> None: ...

class RaftTruncatedState(_message.Message):
    __slots__ = ("index", "term")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class RaftLocalState(_message.Message):
    __slots__ = ("hard_state", "last_index")
    HARD_STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    hard_state: _eraftpb_pb2.HardState
    last_index: int
    def __init__(self, hard_state: _Optional[_Union[_eraftpb_pb2.HardState, _Mapping]] = ..., last_index: _Optional[int] = ...) -> None: ...

class RaftApplyState(_message.Message):
    __slots__ = ("applied_index", "truncated_state", "commit_index", "commit_term")
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_STATE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TERM_FIELD_NUMBER: _ClassVar[int]
    applied_index: int
    truncated_state: RaftTruncatedState
    commit_index: int
    commit_term: int
    def __init__(self, applied_index: _Optional[int] = ..., truncated_state: _Optional[_Union[RaftTruncatedState, _Mapping]] = ..., commit_index: _Optional[int] = ..., commit_term: _Optional[int] = ...) -> None: ...

class MergeState(_message.Message):
    __slots__ = ("min_index", "target", "commit")
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    min_index: int
    target: _metapb_pb2.Region
    commit: int
    def __init__(self, min_index: _Optional[int] = ..., target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., commit: _Optional[int] = ...) -> None: ...

class RegionLocalState(_message.Message):
    __slots__ = ("state", "region", "merge_state")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MERGE_STATE_FIELD_NUMBER: _ClassVar[int]
    state: PeerState
    region: _metapb_pb2.Region
    merge_state: MergeState
    def __init__(self, state: _Optional[_Union[PeerState, str]] = ..., region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., merge_state: _Optional[_Union[MergeState, _Mapping]] = ...) -> None: ...
