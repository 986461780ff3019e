//! Machine code for the fused ops of a plan, where there is some.

use crate::plan::Plan;
use autograd_core::kernels::machine::TileCode;
use std::fmt;
use std::sync::Arc;

/// How fused ops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Engine {
    /// Machine code where the feature `jit` is on, the processor has AVX2 and FMA, and every
    /// function of the op has vector code; tiles otherwise. `explain` says which, op by op.
    #[default]
    Best,
    /// Tiles: vectorised loops over a few hundred elements at a time, on any processor.
    Tiles,
}

/// The machine code of a plan's steps.
#[derive(Default)]
pub(crate) struct Code {
    steps: Vec<Option<Arc<dyn TileCode>>>,
    /// The code of the plan within a step.
    within: Vec<Option<Code>>,
}

impl Code {
    /// Code for the fused steps of a plan, as far as `engine` asks for it and it can be made.
    pub(crate) fn new(plan: &Plan, engine: Engine) -> Self {
        match engine {
            Engine::Tiles => Self::default(),
            Engine::Best => Self {
                steps: plan.steps.iter().map(code_of).collect(),
                within: plan.steps.iter().map(|step| Some(Self::new(step.within()?, engine))).collect(),
            },
        }
    }

    /// The code of a step.
    pub(crate) fn of(&self, step: usize) -> Option<&dyn TileCode> {
        self.steps.get(step)?.as_deref()
    }

    /// The code of the plan within a step.
    pub(crate) fn within(&self, step: usize) -> Option<&Self> {
        self.within.get(step)?.as_ref()
    }

    /// Whether some step has code.
    pub(crate) fn is_some(&self) -> bool {
        self.steps.iter().any(Option::is_some) || self.within.iter().flatten().any(Self::is_some)
    }
}

#[cfg(feature = "jit")]
fn code_of(step: &crate::plan::Step) -> Option<Arc<dyn TileCode>> {
    match &step.kernel {
        crate::plan::Kernel::Fused { prepared, .. } | crate::plan::Kernel::Epilogue { prepared, .. } => {
            autograd_core::kernels::jit::code(prepared)
        }
        crate::plan::Kernel::Op(_) | crate::plan::Kernel::Blocked { .. } | crate::plan::Kernel::Copy => None,
    }
}

#[cfg(not(feature = "jit"))]
fn code_of(_: &crate::plan::Step) -> Option<Arc<dyn TileCode>> {
    None
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().filter(|step| step.is_some()).count();
        write!(f, "machine code for {steps} steps")
    }
}
