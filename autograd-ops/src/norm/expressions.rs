//! The scalar expressions of the norms, each made once: kernel and decomposition share them.

use autograd_core::{Definition, ScalarExpr};
use autograd_kernels::expr::{Binary, Builder, Reg, Unary};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// One pass over the elements. Where it is centred, the mean stands before rstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// x to p·x.
    Mean,
    /// x, mean to p·(x − mean)².
    Variance { centred: bool },
    /// variance to 1/√(variance + p).
    Rstd,
    /// x, mean, rstd, weight, bias to y.
    Output { centred: bool, weighted: bool, biased: bool },
    /// ct, x, mean, rstd, weight to p·g, p·g·x̂, ct·x̂ and ct, those that are wanted.
    Sums { centred: bool, weighted: bool, input: bool, weight: bool, bias: bool },
    /// ct, x, mean, rstd, weight, mean(g), mean(g·x̂) to dx.
    Input { centred: bool, weighted: bool },
}

impl Part {
    /// An input that has the whole shape.
    pub(super) fn whole(self) -> usize {
        match self {
            Part::Sums { .. } | Part::Input { .. } => 1,
            Part::Mean | Part::Variance { .. } | Part::Rstd | Part::Output { .. } => 0,
        }
    }
}

/// The expression of a part; its one parameter is p.
pub(super) fn definition(part: Part) -> &'static Arc<Definition> {
    static MADE: LazyLock<Mutex<HashMap<Part, &'static Arc<Definition>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    // A few dozen parts exist: each is made once and stays for good.
    made.entry(part)
        .or_insert_with(|| Box::leak(Box::new(Arc::new(Definition::new("normalize", make(part))))))
}

/// Hands out input registers in order.
struct Inputs {
    b: Builder,
    taken: usize,
}

impl Inputs {
    fn next(&mut self) -> Reg {
        self.taken += 1;
        self.b.input(self.taken - 1)
    }

    fn op(&mut self, f: Binary, x: Reg, y: Reg) -> Reg {
        self.b.binary(f, x, y)
    }

    /// x̂ = (x − mean)·rstd, and rstd.
    fn standardised(&mut self, centred: bool) -> (Reg, Reg) {
        let mut x = self.next();
        if centred {
            let mean = self.next();
            x = self.op(Binary::Sub, x, mean);
        }
        let rstd = self.next();
        (self.op(Binary::Mul, x, rstd), rstd)
    }

    fn times(&mut self, x: Reg, is_there: bool) -> Reg {
        if !is_there {
            return x;
        }
        let factor = self.next();
        self.op(Binary::Mul, x, factor)
    }
}

fn make(part: Part) -> ScalarExpr {
    let mut i = Inputs { b: Builder::new(), taken: 0 };
    let p = i.b.param(0);
    let mut outputs = Vec::new();
    match part {
        Part::Mean => {
            let x = i.next();
            outputs.push(i.op(Binary::Mul, x, p));
        }
        Part::Variance { centred } => {
            let mut x = i.next();
            if centred {
                let mean = i.next();
                x = i.op(Binary::Sub, x, mean);
            }
            let square = i.op(Binary::Mul, x, x);
            outputs.push(i.op(Binary::Mul, square, p));
        }
        Part::Rstd => {
            let variance = i.next();
            let sum = i.op(Binary::Add, variance, p);
            outputs.push(i.b.unary(Unary::Rsqrt, sum));
        }
        Part::Output { centred, weighted, biased } => {
            let (x, _) = i.standardised(centred);
            let mut y = i.times(x, weighted);
            if biased {
                let bias = i.next();
                y = i.op(Binary::Add, y, bias);
            }
            outputs.push(y);
        }
        Part::Sums { centred, weighted, input, weight, bias } => {
            let ct = i.next();
            let (x, _) = i.standardised(centred);
            let g = i.times(ct, weighted);
            if input {
                let scaled = i.op(Binary::Mul, g, p);
                outputs.extend(centred.then_some(scaled));
                outputs.push(i.op(Binary::Mul, scaled, x));
            }
            if weight {
                outputs.push(i.op(Binary::Mul, ct, x));
            }
            outputs.extend(bias.then_some(ct));
        }
        Part::Input { centred, weighted } => {
            let ct = i.next();
            let (x, rstd) = i.standardised(centred);
            let mut sum = i.times(ct, weighted);
            if centred {
                let mean = i.next();
                sum = i.op(Binary::Sub, sum, mean);
            }
            let along = i.times(x, true);
            sum = i.op(Binary::Sub, sum, along);
            outputs.push(i.op(Binary::Mul, sum, rstd));
        }
    }
    let program = i.b.finish(&outputs, i.taken, 1);
    ScalarExpr::new(program)
}
