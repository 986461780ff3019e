//! How long the values that a transform hands out may be used: while its function runs.

use crate::error::{At, Error, Result, Site};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The run of one transform's function. It ends when the handle that [`enter`](Self::enter) gave
/// is dropped; values that got out say so at their next use.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transform: &'static str,
    entered: Site,
    over: AtomicBool,
}

/// Ends its scope when it is dropped.
#[derive(Debug)]
pub struct ScopeGuard(Scope);

impl Drop for ScopeGuard {
    fn drop(&mut self) {
        self.0.0.over.store(true, Ordering::Release);
    }
}

impl ScopeGuard {
    /// The scope, for the values that are handed out.
    pub fn scope(&self) -> &Scope {
        &self.0
    }
}

impl Scope {
    /// Begins the run of a transform's function.
    #[must_use]
    pub fn enter(transform: &'static str, entered: Site) -> ScopeGuard {
        ScopeGuard(Self(Arc::new(Inner { transform, entered, over: AtomicBool::new(false) })))
    }

    /// Whether the function still runs.
    ///
    /// # Errors
    /// [`Error::Leaked`] after its end.
    pub fn check(&self, site: Site) -> Result<()> {
        if !self.0.over.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Leaked { transform: self.0.transform, entered: self.0.entered, at: At::from(site) })
    }
}
