//! Attribute numbers of expressions (`enum nft_*_attributes` of `nf_tables.h`).

/// `enum nft_payload_attributes`
pub(crate) mod payload {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const BASE: u16 = 2;
    pub(crate) const OFFSET: u16 = 3;
    pub(crate) const LEN: u16 = 4;
}

/// `enum nft_meta_attributes`
pub(crate) mod meta {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const KEY: u16 = 2;
    pub(crate) const SREG: u16 = 3;
}

/// `enum nft_ct_attributes`
pub(crate) mod ct {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const KEY: u16 = 2;
    pub(crate) const DIRECTION: u16 = 3;
    pub(crate) const SREG: u16 = 4;
}

/// `enum nft_socket_attributes`
pub(crate) mod socket {
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DREG: u16 = 2;
}

/// `enum nft_cmp_attributes`
pub(crate) mod cmp {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const OP: u16 = 2;
    pub(crate) const DATA: u16 = 3;
}

/// `enum nft_range_attributes`
pub(crate) mod range {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const OP: u16 = 2;
    pub(crate) const FROM: u16 = 3;
    pub(crate) const TO: u16 = 4;
}

/// `enum nft_bitwise_attributes`
pub(crate) mod bitwise {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const LEN: u16 = 3;
    pub(crate) const MASK: u16 = 4;
    pub(crate) const XOR: u16 = 5;
    pub(crate) const OP: u16 = 6;
}

/// `enum nft_byteorder_attributes`
pub(crate) mod byteorder {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const OP: u16 = 3;
    pub(crate) const LEN: u16 = 4;
    pub(crate) const SIZE: u16 = 5;
}

/// `enum nft_lookup_attributes`
pub(crate) mod lookup {
    pub(crate) const SET: u16 = 1;
    pub(crate) const SREG: u16 = 2;
    pub(crate) const DREG: u16 = 3;
    pub(crate) const FLAGS: u16 = 5;
}

/// `enum nft_immediate_attributes`
pub(crate) mod immediate {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const DATA: u16 = 2;
}

/// `enum nft_ng_attributes`
pub(crate) mod numgen {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const MODULUS: u16 = 2;
    pub(crate) const TYPE: u16 = 3;
    pub(crate) const OFFSET: u16 = 4;
}

/// `enum nft_nat_attributes`
pub(crate) mod nat {
    pub(crate) const TYPE: u16 = 1;
    pub(crate) const FAMILY: u16 = 2;
    pub(crate) const ADDRESS_MIN: u16 = 3;
    pub(crate) const ADDRESS_MAX: u16 = 4;
    pub(crate) const PORT_MIN: u16 = 5;
    pub(crate) const PORT_MAX: u16 = 6;
    pub(crate) const FLAGS: u16 = 7;
}

/// `enum nft_masq_attributes`
pub(crate) mod masq {
    pub(crate) const FLAGS: u16 = 1;
    pub(crate) const PORT_MIN: u16 = 2;
    pub(crate) const PORT_MAX: u16 = 3;
}

/// `enum nft_redir_attributes`
pub(crate) mod redir {
    pub(crate) const PORT_MIN: u16 = 1;
    pub(crate) const PORT_MAX: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
}

/// `enum nft_reject_attributes` and `enum nft_reject_types`
pub(crate) mod reject {
    pub(crate) const TYPE: u16 = 1;
    pub(crate) const CODE: u16 = 2;
    pub(crate) const ICMP: u32 = 0;
    pub(crate) const TCP_RESET: u32 = 1;
    pub(crate) const ICMPX: u32 = 2;
}

/// `enum nft_fib_attributes`
pub(crate) mod fib {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const RESULT: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
}

/// `enum nft_dynset_attributes`
pub(crate) mod dynset {
    pub(crate) const SET: u16 = 1;
    pub(crate) const OP: u16 = 3;
    pub(crate) const KEY: u16 = 4;
    pub(crate) const DATA: u16 = 5;
    pub(crate) const TIMEOUT: u16 = 6;
    pub(crate) const EXPR: u16 = 7;
    pub(crate) const FLAGS: u16 = 9;
    pub(crate) const EXPRESSIONS: u16 = 10;
}

/// `enum nft_counter_attributes`
pub(crate) mod counter {
    pub(crate) const BYTES: u16 = 1;
    pub(crate) const PACKETS: u16 = 2;
}

/// `enum nft_limit_attributes`
pub(crate) mod limit {
    pub(crate) const RATE: u16 = 1;
    pub(crate) const UNIT: u16 = 2;
    pub(crate) const BURST: u16 = 3;
    pub(crate) const TYPE: u16 = 4;
    pub(crate) const FLAGS: u16 = 5;
}

/// `enum nft_log_attributes`
pub(crate) mod log {
    pub(crate) const GROUP: u16 = 1;
    pub(crate) const PREFIX: u16 = 2;
    pub(crate) const LEVEL: u16 = 5;
    pub(crate) const FLAGS: u16 = 6;
    /// `NFT_LOGLEVEL_WARNING`, the default
    pub(crate) const WARNING: u32 = 4;
}
