//! Numbers of the nf_tables protocol that no crate defines, under the names that
//! `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h` give them.

/// `NFTA_LIST_ELEM`
pub(crate) const LIST_ELEM: u16 = 1;
/// `NFTA_DATA_VALUE`
pub(crate) const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`
pub(crate) const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`
pub(crate) const VERDICT_CODE: u16 = 1;
/// `NFTA_VERDICT_CHAIN`
pub(crate) const VERDICT_CHAIN: u16 = 2;
/// `NFT_DATA_VERDICT`, the datatype of verdict maps
pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

/// `enum nft_verdicts` and the `NF_*` verdicts of `netfilter.h`, as they travel
pub(crate) mod verdict {
    pub(crate) const DROP: i32 = 0;
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const CONTINUE: i32 = -1;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const GOTO: i32 = -4;
    pub(crate) const RETURN: i32 = -5;
}

/// `enum nf_tables_msg_types`
pub(crate) mod msg {
    pub(crate) const NEWTABLE: u8 = 0;
    pub(crate) const GETTABLE: u8 = 1;
    pub(crate) const DELTABLE: u8 = 2;
    pub(crate) const NEWCHAIN: u8 = 3;
    pub(crate) const GETCHAIN: u8 = 4;
    pub(crate) const DELCHAIN: u8 = 5;
    pub(crate) const NEWRULE: u8 = 6;
    pub(crate) const GETRULE: u8 = 7;
    pub(crate) const DELRULE: u8 = 8;
    pub(crate) const NEWSET: u8 = 9;
    pub(crate) const GETSET: u8 = 10;
    pub(crate) const DELSET: u8 = 11;
    pub(crate) const NEWSETELEM: u8 = 12;
    pub(crate) const GETSETELEM: u8 = 13;
    pub(crate) const DELSETELEM: u8 = 14;
    pub(crate) const GETGEN: u8 = 16;
    pub(crate) const NEWOBJ: u8 = 18;
    pub(crate) const GETOBJ: u8 = 19;
    pub(crate) const DELOBJ: u8 = 20;
    pub(crate) const NEWFLOWTABLE: u8 = 22;
    pub(crate) const GETFLOWTABLE: u8 = 23;
    pub(crate) const DELFLOWTABLE: u8 = 24;
}

/// `enum nft_table_attributes`
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USERDATA: u16 = 6;
}

/// `enum nft_chain_attributes` and `enum nft_hook_attributes`
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const USERDATA: u16 = 12;
    pub(crate) const HOOK_HOOKNUM: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

/// `enum nft_rule_attributes` and `enum nft_expr_attributes`
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
    pub(crate) const EXPR_NAME: u16 = 1;
    pub(crate) const EXPR_DATA: u16 = 2;
}

/// `enum nft_set_attributes`, `nft_set_desc_attributes`, `nft_set_field_attributes` and
/// `nft_set_flags`
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const TIMEOUT: u16 = 11;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const EXPR: u16 = 17;
    pub(crate) const DESC_SIZE: u16 = 1;
    pub(crate) const DESC_CONCAT: u16 = 2;
    pub(crate) const FIELD_LEN: u16 = 1;
    pub(crate) const F_MAP: u32 = 0x8;
    pub(crate) const F_OBJECT: u32 = 0x40;
    pub(crate) const F_CONCAT: u32 = 0x80;
}

/// `enum nft_set_elem_list_attributes`, `nft_set_elem_attributes` and `nft_set_elem_flags`
pub(crate) mod elem {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 4;
    pub(crate) const EXPIRATION: u16 = 5;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const EXPR: u16 = 7;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const F_INTERVAL_END: u32 = 1;
}

/// `enum nft_gen_attributes`
pub(crate) mod generation {
    pub(crate) const ID: u16 = 1;
}

/// `enum nft_object_attributes`
pub(crate) mod object {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
}

/// `enum nft_flowtable_attributes`
pub(crate) mod flowtable {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
}

/// `NFNL_MSG_BATCH_BEGIN` of `nfnetlink.h`
pub(crate) const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END` of `nfnetlink.h`
pub(crate) const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES` of `nfnetlink.h`
pub(crate) const SUBSYS_NFTABLES: u8 = 10;
/// `NFNLGRP_NFTABLES` of `nfnetlink.h`
pub(crate) const GROUP_NFTABLES: u32 = 7;
/// `NFT_USERDATA_MAXLEN`
pub(crate) const USERDATA_MAX: usize = 256;
/// `NFT_NAME_MAXLEN`, the terminating zero included
pub(crate) const NAME_MAX: usize = 256;
/// `NFTNL_UDATA_COMMENT_MAXLEN` of libnftnl's `udata.h`, the terminating zero included: `nft`
/// does not show a longer comment
pub(crate) const COMMENT_MAX: usize = 128;
