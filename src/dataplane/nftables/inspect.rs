//! What the kernel has of one Service in this mode: all of it is in the service table.

use super::{ToEndpoints, path};
use crate::inspection::Inspection;
use crate::service_table;
use sluice_core::model::ServiceName;
use sluice_core::plan::{ForwardingTable, Hit};
use sluice_kernel::nft::{Nft, NftError};

/// What the kernel has of a Service, or of a packet's way to it. `table` need have no other Service.
///
/// # Errors
/// If it cannot be read.
pub fn inspect(
    nft: &mut Nft,
    table: &ForwardingTable,
    name: &ServiceName,
    hit: Option<&Hit<'_>>,
) -> Result<Inspection, NftError> {
    let steps = hit.map(|hit| path(hit).steps).unwrap_or_default();
    service_table::inspect(nft, (table, name), &ToEndpoints, hit.map(|hit| (hit, &*steps)))
}
