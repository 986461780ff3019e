//! Reverse mode from autograd-core and autograd-tape alone.

use autograd_core as _;
use autograd_tape as _;
use candle_core as _;

fn main() {}
