//! Composable transforms: vmap, grad, jvp, Jacobians and checks.
