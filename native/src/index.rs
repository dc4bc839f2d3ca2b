//! The index, owned by Python, as the core sees it.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snapstore_core::error::{Error, Result};
use snapstore_core::id::Id;
use snapstore_core::index::{Index, Location, LOCATION_LEN};
use snapstore_core::pack::{Kind, Pack};

use crate::errors::foreign;
use crate::keys::PackTable;

pub struct PyIndex(pub Py<PyAny>);

impl Index for PyIndex {
    fn locate(&self, ids: &[Id]) -> Result<Vec<Option<Location>>> {
        let mut joined = Vec::with_capacity(ids.len() * 32);
        ids.iter().for_each(|id| joined.extend_from_slice(&id.0));
        Python::attach(|py| {
            let answer = self.0.call_method1(py, "locate", (PyBytes::new(py, &joined),)).map_err(foreign)?;
            let records = answer.bind(py).cast::<PyBytes>().map_err(|e| foreign(e.into()))?.as_bytes();
            if records.len() != ids.len() * LOCATION_LEN {
                return Err(Error::Damaged("damaged index: a record has a wrong length; run `snap reindex`".into()));
            }
            ids.iter()
                .zip(records.chunks_exact(LOCATION_LEN))
                .map(|(id, record)| Location::decode(id, record))
                .collect()
        })
    }

    fn pack(&self, number: u32) -> Result<(Kind, Id)> {
        Python::attach(|py| {
            let answer = self.0.call_method1(py, "pack", (number,)).map_err(foreign)?;
            let bytes = answer.bind(py).cast::<PyBytes>().map_err(|e| foreign(e.into()))?.as_bytes();
            let (kind, id) = bytes
                .split_first()
                .ok_or_else(|| Error::Damaged("damaged index: it names no pack; run `snap reindex`".into()))?;
            Ok((Kind::from_byte(*kind)?, Id::from_slice(id)?))
        })
    }

    fn add_pack(&self, pack: Pack) -> Result<()> {
        Python::attach(|py| self.0.call_method1(py, "add_pack", (PackTable::new(pack),)).map(|_| ()).map_err(foreign))
    }
}
