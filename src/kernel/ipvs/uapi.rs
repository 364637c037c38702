//! Numbers of `linux/ip_vs.h`.

/// `IPVS_GENL_NAME`
pub(super) const NAME: &str = "IPVS";
/// `IPVS_GENL_VERSION`
pub(super) const VERSION: u8 = 1;

/// `IPVS_CMD_*`
pub(super) mod command {
    pub(in crate::ipvs) const NEW_SERVICE: u8 = 1;
    pub(in crate::ipvs) const SET_SERVICE: u8 = 2;
    pub(in crate::ipvs) const DEL_SERVICE: u8 = 3;
    pub(in crate::ipvs) const GET_SERVICE: u8 = 4;
    pub(in crate::ipvs) const NEW_DEST: u8 = 5;
    pub(in crate::ipvs) const SET_DEST: u8 = 6;
    pub(in crate::ipvs) const DEL_DEST: u8 = 7;
    pub(in crate::ipvs) const GET_DEST: u8 = 8;
    pub(in crate::ipvs) const SET_CONFIG: u8 = 12;
    #[cfg(any(test, feature = "fixtures"))]
    pub(in crate::ipvs) const GET_CONFIG: u8 = 13;
    pub(in crate::ipvs) const GET_INFO: u8 = 15;
}

/// `IPVS_CMD_ATTR_*`
pub(super) mod attribute {
    pub(in crate::ipvs) const SERVICE: u16 = 1;
    pub(in crate::ipvs) const DEST: u16 = 2;
    pub(in crate::ipvs) const TIMEOUT_TCP: u16 = 4;
    pub(in crate::ipvs) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(in crate::ipvs) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`
pub(super) mod service {
    pub(in crate::ipvs) const AF: u16 = 1;
    pub(in crate::ipvs) const PROTOCOL: u16 = 2;
    pub(in crate::ipvs) const ADDR: u16 = 3;
    pub(in crate::ipvs) const PORT: u16 = 4;
    pub(in crate::ipvs) const FWMARK: u16 = 5;
    pub(in crate::ipvs) const SCHED_NAME: u16 = 6;
    pub(in crate::ipvs) const FLAGS: u16 = 7;
    pub(in crate::ipvs) const TIMEOUT: u16 = 8;
    pub(in crate::ipvs) const NETMASK: u16 = 9;
    pub(in crate::ipvs) const PE_NAME: u16 = 11;
}

/// `IPVS_DEST_ATTR_*`
pub(super) mod destination {
    pub(in crate::ipvs) const ADDR: u16 = 1;
    pub(in crate::ipvs) const PORT: u16 = 2;
    pub(in crate::ipvs) const FWD_METHOD: u16 = 3;
    pub(in crate::ipvs) const WEIGHT: u16 = 4;
    pub(in crate::ipvs) const U_THRESH: u16 = 5;
    pub(in crate::ipvs) const L_THRESH: u16 = 6;
    pub(in crate::ipvs) const ACTIVE_CONNS: u16 = 7;
    pub(in crate::ipvs) const INACT_CONNS: u16 = 8;
    pub(in crate::ipvs) const PERSIST_CONNS: u16 = 9;
    pub(in crate::ipvs) const ADDR_FAMILY: u16 = 11;
}

/// `IPVS_INFO_ATTR_*`
pub(super) mod info {
    pub(in crate::ipvs) const VERSION: u16 = 1;
    pub(in crate::ipvs) const CONN_TAB_SIZE: u16 = 2;
}

/// `IP_VS_SVC_F_*`
pub(super) mod flag {
    pub(in crate::ipvs) const PERSISTENT: u32 = 0x1;
    /// Set by the kernel.
    pub(in crate::ipvs) const HASHED: u32 = 0x2;
    pub(in crate::ipvs) const ONE_PACKET: u32 = 0x4;
}

/// `IP_VS_CONN_F_FWD_MASK`
pub(super) const FORWARD_MASK: u32 = 0x7;
