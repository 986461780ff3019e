//! Static graphs: capture, passes and execution.
