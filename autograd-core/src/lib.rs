//! The universal value, the interception point and the rule shapes of candle-autograd.
