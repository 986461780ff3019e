//! Where plain numbers come from, if they were watched before: what a gradient cannot cross, and
//! the line that is to blame.

use crate::error::Site;
use crate::level::Level;
use crate::value::TrackedTensor;
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// Why numbers are not watched any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutKind {
    /// Somebody asked for it: `detach`.
    Detached,
    /// An op whose derivative is zero almost everywhere: a comparison, a rounding, an index, a
    /// conversion to integers.
    Flat,
    /// A tape recorded nothing there: `no_grad`, `stop_recording`.
    Paused,
    /// The value's tape was spent, by the gradient at this line.
    Spent(Option<Site>),
    /// The value's tape was dropped.
    Dropped,
}

impl fmt::Display for CutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CutKind::Detached => write!(f, "detached"),
            CutKind::Flat => {
                write!(f, "made by a flat op: its derivative is zero almost everywhere, integers have none")
            }
            CutKind::Paused => write!(f, "computed while its tape was paused"),
            CutKind::Spent(Some(at)) => write!(f, "a value of a tape that was spent at {at}"),
            CutKind::Spent(None) => write!(f, "a value of a spent tape"),
            CutKind::Dropped => write!(f, "a value of a dropped tape"),
        }
    }
}

/// The place where numbers left their transforms. Plain values that are computed from them carry it
/// on, so that a constant on a tape can say why it is one.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Why.
    pub kind: CutKind,
    /// The op that cut.
    pub op: &'static str,
    /// The user's line.
    pub site: Site,
    /// The values that were watched: the level of the transform, and its number for the value.
    pub origins: SmallVec<[(Level, usize); 2]>,
}

impl Cut {
    /// A cut through values, those of them that are watched.
    pub fn through(values: &[&TrackedTensor], kind: CutKind, op: &'static str, site: Site) -> Self {
        let mut origins = SmallVec::new();
        for value in values {
            let mut value = *value;
            while let Some(tracer) = value.tracer() {
                if let Some(number) = tracer.number() {
                    origins.push((tracer.level(), number));
                }
                let Some(lower) = tracer.lower() else { break };
                value = lower;
            }
        }
        Self { kind, op, site, origins }
    }
}

impl TrackedTensor {
    /// The cut behind which these numbers lie, where they come from watched ones.
    pub fn cut(&self) -> Option<&Arc<Cut>> {
        self.bottom().and_then(|plain| plain.cut())
    }

    /// The same numbers behind a cut. A value that is watched by somebody else stays as it is.
    pub fn behind(self, cut: Cut) -> Self {
        let Some(plain) = self.plain() else { return self };
        let plain = match plain.cut() {
            None => plain.clone(),
            // They lie behind another one already: both are named, on a value of their own.
            Some(_) => plain.without_cut(),
        };
        let origins = self.cut().map(|old| old.origins.clone()).unwrap_or_default();
        let mut cut = cut;
        cut.origins.extend(origins);
        plain.set_cut(&Arc::new(cut));
        Self::from_plain(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::{mul, reshape};
    use crate::error::Result;
    use autograd_kernels::Shape;

    fn cut(kind: CutKind) -> Cut {
        Cut::through(&[], kind, "test", Site::caller())
    }

    #[test]
    fn what_is_computed_from_cut_numbers_knows_it() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
        assert!(x.cut().is_none());
        let y = x.clone().behind(cut(CutKind::Detached));
        let plain = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
        for z in [
            mul(&plain, &y)?,
            reshape(&y, &Shape::new(&[2, 1]))?,
            crate::algebra::sum_to(&y, &Shape::SCALAR)?,
        ] {
            assert_eq!(z.cut().map(|cut| cut.kind), Some(CutKind::Detached));
        }
        assert!(mul(&plain, &plain)?.cut().is_none());
        Ok(())
    }

    #[test]
    fn a_second_cut_keeps_the_first_ones_origins() -> Result<()> {
        let x = TrackedTensor::scalar(1.0);
        let mut first = cut(CutKind::Detached);
        first.origins.push((Level::fresh(), 3));
        let y = x.behind(first).behind(cut(CutKind::Flat));
        let found = y.cut().map(|cut| (cut.kind, cut.origins[0].1));
        assert_eq!(found, Some((CutKind::Flat, 3)));
        Ok(())
    }
}
