//! Forward mode from autograd-core and autograd-forward alone.

use autograd_core as _;
use autograd_forward as _;
use candle_core as _;

fn main() {}
