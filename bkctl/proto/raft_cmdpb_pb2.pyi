from bkctl.proto import eraftpb_pb2 as _eraftpb_pb2
from bkctl.proto import import_sstpb_pb2 as _import_sstpb_pb2
from bkctl.proto import metapb_pb2 as _metapb_pb2
from bkctl.proto import raft_serverpb_pb2 as _raft_serverpb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CmdType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Invalid: _ClassVar[CmdType]
    Get: _ClassVar[CmdType]
    Put: _ClassVar[CmdType]
    Delete: _ClassVar[CmdType]
    Snap: _ClassVar[CmdType]
    Prewrite: _ClassVar[CmdType]
    DeleteRange: _ClassVar[CmdType]
    IngestSST: _ClassVar[CmdType]
    ReadIndex: _ClassVar[CmdType]

class AdminCmdType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    InvalidAdmin: _ClassVar[AdminCmdType]
    ChangePeer: _ClassVar[AdminCmdType]
    Split: _ClassVar[AdminCmdType]
    CompactLog: _ClassVar[AdminCmdType]
    TransferLeader: _ClassVar[AdminCmdType]
    ComputeHash: _ClassVar[AdminCmdType]
    VerifyHash: _ClassVar[AdminCmdType]
    PrepareMerge: _ClassVar[AdminCmdType]
    CommitMerge: _ClassVar[AdminCmdType]
    RollbackMerge: _ClassVar[AdminCmdType]
    BatchSplit: _ClassVar[AdminCmdType]
    ChangePeerV2: _ClassVar[AdminCmdType]
    PrepareFlashback: _ClassVar[AdminCmdType]
    FinishFlashback: _ClassVar[AdminCmdType]
    BatchSwitchWitness: _ClassVar[AdminCmdType]
    UpdateGcPeer: _ClassVar[AdminCmdType]
Invalid: CmdType
Get: CmdType
Put: CmdType
Delete: CmdType
Snap: CmdType
Prewrite: CmdType
DeleteRange: CmdType
IngestSST: CmdType
ReadIndex: CmdType
InvalidAdmin: AdminCmdType
ChangePeer: AdminCmdType
Split: AdminCmdType
CompactLog: AdminCmdType
TransferLeader: AdminCmdType
ComputeHash: AdminCmdType
VerifyHash: AdminCmdType
PrepareMerge: AdminCmdType
CommitMerge: AdminCmdType
RollbackMerge: AdminCmdType
BatchSplit: AdminCmdType
ChangePeerV2: AdminCmdType
PrepareFlashback: AdminCmdType
FinishFlashback: AdminCmdType
BatchSwitchWitness: AdminCmdType
UpdateGcPeer: AdminCmdType

class PutRequest(_message.Message):
    __slots__ = ("cf", "key", "value")
    CF_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    cf: str
    key: bytes
    value: bytes
    def __init__(self, cf: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("cf", "key")
    CF_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    cf: str
    key: bytes
    def __init__(self, cf: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class DeleteRangeRequest(_message.Message):
    __slots__ = ("cf", "start_key", "end_key", "notify_only")
    CF_FIELD_NUMBER: _ClassVar[int]
    START_KEY_FIELD_NUMBER: _ClassVar[int]
    END_KEY_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_ONLY_FIELD_NUMBER: _ClassVar[int]
    cf: str
    start_key: bytes
    end_key: bytes
    notify_only: bool
    def __init__(self, cf: _Optional[str] = ..., start_key: _Optional[bytes] = ..., end_key: _Optional[bytes] = ..., notify_only: bool = ...) -> None: ...

class IngestSSTRequest(_message.Message):
    __slots__ = ("sst",)
    SST_FIELD_NUMBER: _ClassVar[int]
    sst: _import_sstpb_pb2.SSTMeta
    def __init__(self, sst: _Optional[_Union[_import_sstpb_pb2.SSTMeta, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("cmd_type", "put", "delete", "delete_range", "ingest_sst")
    CMD_TYPE_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    DELETE_RANGE_FIELD_NUMBER: _ClassVar[int]
    INGEST_SST_FIELD_NUMBER: _ClassVar[int]
    cmd_type: CmdType
    put: PutRequest
    delete: DeleteRequest
    delete_range: DeleteRangeRequest
    ingest_sst: IngestSSTRequest
    def __init__(self, cmd_type: _Optional[_Union[CmdType, str]] = ..., put: _Optional[_Union[PutRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRangeRequest, _Mapping]] = ..., ingest_sst: _Optional[_Union[IngestSSTRequest, _Mapping]] = ...) -> None: ...

class ChangePeerRequest(_message.Message):
    __slots__ = ("change_type", "peer")
    CHANGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    change_type: _eraftpb_pb2.ConfChangeType
    peer: _metapb_pb2.Peer
    def __init__(self, change_type: _Optional[_Union[_eraftpb_pb2.ConfChangeType, str]] = ..., peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ...) -> None: ...

class ChangePeerV2Request(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[ChangePeerRequest]
    def __init__(self, changes: _Optional[_Iterable[_Union[ChangePeerRequest, _Mapping]]] = ...) -> None: ...

class SplitRequest(_message.Message):
    __slots__ = ("split_key", "new_region_id", "new_peer_ids", "right_derive")
    SPLIT_KEY_FIELD_NUMBER: _ClassVar[int]
    NEW_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_PEER_IDS_FIELD_NUMBER: _ClassVar[int]
    RIGHT_DERIVE_FIELD_NUMBER: _ClassVar[int]
    split_key: bytes
    new_region_id: int
    new_peer_ids: _containers.RepeatedScalarFieldContainer[int]
    right_derive: bool
    def __init__(self, split_key: _Optional[bytes] = ..., new_region_id: _Optional[int] = ..., new_peer_ids: _Optional[_Iterable[int]] = ..., right_derive: bool = ...) -> None: ...

class BatchSplitRequest(_message.Message):
    __slots__ = ("requests", "right_derive")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RIGHT_DERIVE_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SplitRequest]
    right_derive: bool
    def __init__(self, requests: _Optional[_Iterable[_Union[SplitRequest, _Mapping]]] = ..., right_derive: bool = ...) -> None: ...

class CompactLogRequest(_message.Message):
    __slots__ = ("compact_index", "compact_term")
    COMPACT_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMPACT_TERM_FIELD_NUMBER: _ClassVar[int]
    compact_index: int
    compact_term: int
    def __init__(self, compact_index: _Optional[int] = ..., compact_term: _Optional[int] = ...) -> None: ...

class PrepareMergeRequest(_message.Message):
    __slots__ = ("min_index", "target")
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    min_index: int
    target: _metapb_pb2.Region
    def __init__(self, min_index: _Optional[int] = ..., target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ...) -> None: ...

class PrepareFlashbackRequest(_message.Message):
    __slots__ = ("start_ts",)
    START_TS_FIELD_NUMBER: _ClassVar[int]
    start_ts: int
    def __init__(self, start_ts: _Optional[int] = ...) -> None: ...

class CommitMergeRequest(_message.Message):
    __slots__ = ("source", "commit", "entries", "source_state")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_STATE_FIELD_NUMBER: _ClassVar[int]
    source: _metapb_pb2.Region
    commit: int
    entries: _containers.RepeatedCompositeFieldContainer[_eraftpb_pb2.Entry]
    source_state: _raft_serverpb_pb2.RegionLocalState
    def __init__(self, source: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., commit: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[_eraftpb_pb2.Entry, _Mapping]]] = ..., source_state: _Optional[_Union[_raft_serverpb_pb2.RegionLocalState, _Mapping]] = ...) -> None: ...

class RollbackMergeRequest(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: int
    def __init__(self, commit: _Optional[int] = ...) -> None: ...

class SwitchWitnessRequest(_message.Message):
    __slots__ = ("peer_id", "is_witness")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    IS_WITNESS_FIELD_NUMBER: _ClassVar[int]
    peer_id: int
    is_witness: bool
    def __init__(self, peer_id: _Optional[int] = ..., is_witness: bool = ...) -> None: ...

class BatchSwitchWitnessRequest(_message.Message):
    __slots__ = ("switch_witnesses",)
    SWITCH_WITNESSES_FIELD_NUMBER: _ClassVar[int]
    switch_witnesses: _containers.RepeatedCompositeFieldContainer[SwitchWitnessRequest]
    def __init__(self, switch_witnesses: _Optional[_Iterable[_Union[SwitchWitnessRequest, _Mapping]]] = ...) -> None: ...

class AdminRequest(_message.Message):
    __slots__ = ("cmd_type", "change_peer", "split", "compact_log", "prepare_merge", "commit_merge", "rollback_merge", "splits", "change_peer_v2", "prepare_flashback", "switch_witnesses")
    CMD_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_PEER_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    COMPACT_LOG_FIELD_NUMBER: _ClassVar[int]
    PREPARE_MERGE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MERGE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_MERGE_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_PEER_V2_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FLASHBACK_FIELD_NUMBER: _ClassVar[int]
    SWITCH_WITNESSES_FIELD_NUMBER: _ClassVar[int]
    cmd_type: AdminCmdType
    change_peer: ChangePeerRequest
    split: SplitRequest
    compact_log: CompactLogRequest
    prepare_merge: PrepareMergeRequest
    commit_merge: CommitMergeRequest
    rollback_merge: RollbackMergeRequest
    splits: BatchSplitRequest
    change_peer_v2: ChangePeerV2Request
    prepare_flashback: PrepareFlashbackRequest
    switch_witnesses: BatchSwitchWitnessRequest
    def __init__(self, cmd_type: _Optional[_Union[AdminCmdType, str]] = ..., change_peer: _Optional[_Union[ChangePeerRequest, _Mapping]] = ..., split: _Optional[_Union[SplitRequest, _Mapping]] = ..., compact_log: _Optional[_Union[CompactLogRequest, _Mapping]] = ..., prepare_merge: _Optional[_Union[PrepareMergeRequest, _Mapping]] = ..., commit_merge: _Optional[_Union[CommitMergeRequest, _Mapping]] = ..., rollback_merge: _Optional[_Union[RollbackMergeRequest, _Mapping]] = ..., splits: _Optional[_Union[BatchSplitRequest, _Mapping]] = ..., change_peer_v2: _Optional[_Union[ChangePeerV2Request, _Mapping]] = ..., prepare_flashback: _Optional[_Union[PrepareFlashbackRequest, _Mapping]] = ..., switch_witnesses: _Optional[_Union[BatchSwitchWitnessRequest, _Mapping]] = ...) -> None: ...

class RaftRequestHeader(_message.Message):
    __slots__ = ("region_id", "peer", "region_epoch", "term", "flags", "flag_data")
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    REGION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    FLAG_DATA_FIELD_NUMBER: _ClassVar[int]
    region_id: int
    peer: _metapb_pb2.Peer
    region_epoch: _metapb_pb2.RegionEpoch
    term: int
    flags: int
    flag_data: bytes
    def __init__(self, region_id: _Optional[int] = ..., peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ..., region_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., term: _Optional[int] = ..., flags: _Optional[int] = ..., flag_data: _Optional[bytes] = ...) -> None: ...

class CustomRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class RaftCmdRequest(_message.Message):
    __slots__ = ("header", "requests", "admin_request", "custom_request")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_REQUEST_FIELD_NUMBER: _ClassVar[int]
    header: RaftRequestHeader
    requests: _containers.RepeatedCompositeFieldContainer[Request]
    admin_request: AdminRequest
    custom_request: CustomRequest
    def __init__(self, header: _Optional[_Union[RaftRequestHeader, _Mapping]] = ..., requests: _Optional[_Iterable[_Union[Request, _Mapping]]] = ..., admin_request: _Optional[_Union[AdminRequest, _Mapping]] = ..., custom_request: _Optional[_Union[CustomRequest, _Mapping]] = ...) -> None: ...
