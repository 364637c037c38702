//! Reads the counters of a set's elements.

use super::connection::Nft;
use super::error::NftError;
use crate::nft::model::{ElementCounter, TableName};
use crate::nft::wire::decode;

/// How often a set is read again that changed meanwhile.
const ATTEMPTS: u32 = 3;

impl Nft {
    /// Reads what the elements of a set count, sorted by key; nothing if there is no such set. It is one
    /// dump, which takes no lock that transactions take; if the set is being changed, it is a few.
    ///
    /// # Errors
    /// If it cannot be read, or changes all the time.
    pub fn element_counters(
        &mut self,
        table: &TableName,
        set: &str,
    ) -> Result<Vec<ElementCounter>, NftError> {
        let what = format!("counters of set {table} {set}");
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let result = self.elements_of(table, set, &what, |message| {
                found.extend(decode::counts_of(message.body()));
            });
            match result {
                Ok(()) => {}
                Err(error) if error.is_absence() => return Ok(Vec::new()),
                Err(error) if error.is_passing() => continue,
                Err(error) => return Err(error),
            }
            found.sort_unstable_by_key(|element| element.key);
            // An element twice: the hash table was being resized, and others are missing.
            if found.is_sorted_by(|before, after| before.key < after.key) {
                return Ok(found);
            }
        }
        Err(NftError::Unstable { table: table.clone(), attempts: ATTEMPTS })
    }
}
