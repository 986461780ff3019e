//! Rules about `unsafe`: where it may stand, and that each use says why it is sound.

use super::{Finding, Source};

/// Folders and files that may hold `unsafe`; everything else goes through their safe functions.
const ALLOWED: [&str; 2] = ["autograd-kernels/", "autograd-gpu/"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let allowed = ALLOWED.iter().any(|place| source.path.starts_with(place));
    let mut findings = Vec::new();
    for offset in source.words("unsafe") {
        let mut object = |says| {
            findings.push(Finding::new(&source.path, source.line_of(offset), says));
        };
        if !allowed {
            object("`unsafe` outside autograd-kernels and autograd-gpu");
        }
        let claims = claims_soundness(&source.code[offset + "unsafe".len()..]);
        if claims && !source.comment_for(offset).contains("SAFETY:") {
            object("`unsafe` without `// SAFETY:` just above: state the facts that make it sound");
        }
    }
    findings
}

/// Whether the keyword opens a block, an impl or foreign declarations. An `unsafe fn` or trait
/// asks something of its callers instead, which its `# Safety` section says (clippy checks that).
fn claims_soundness(after: &str) -> bool {
    let after = after.trim_start();
    if let Some(abi) = after.strip_prefix("extern") {
        let abi = abi.trim_start().trim_start_matches('"').trim_start();
        return abi.trim_start_matches('"').trim_start().starts_with('{');
    }
    after.starts_with('{') || after.starts_with("impl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines;

    fn found(path: &str, text: &str) -> Vec<usize> {
        lines(&check(&Source::new(path, text)))
    }

    #[test]
    fn unsafe_elsewhere_is_found() {
        let text = "//! x\n\n// SAFETY: sound\nunsafe { f() }";
        assert_eq!(found("autograd-core/src/a.rs", text), [4]);
        assert_eq!(found("autograd-graph/src/plan.rs", text), [4]);
        assert_eq!(found("tests/it/a.rs", text), [4]);
        assert!(found("autograd-kernels/src/a.rs", text).is_empty());
        assert!(found("autograd-gpu/src/a.rs", text).is_empty());
    }

    #[test]
    fn unsafe_without_reason_is_found() {
        let kernels = "autograd-kernels/src/a.rs";
        assert_eq!(found(kernels, "let x =\n    unsafe { f() };"), [2]);
        assert_eq!(found(kernels, "unsafe impl Send for A {}"), [1]);
        assert_eq!(found(kernels, "unsafe extern \"C\" { fn f(); }"), [1]);
        assert_eq!(found(kernels, "// SAFETY: a\nunsafe { f() };\nunsafe { g() }"), [3]);
        assert_eq!(found(kernels, "// it is fine\nunsafe { f() }"), [2]);
    }

    #[test]
    fn what_asks_of_its_callers_needs_no_reason() {
        let kernels = "autograd-kernels/src/a.rs";
        assert!(found(kernels, "unsafe fn f() {}").is_empty());
        assert!(found(kernels, "type F = unsafe extern \"C\" fn(u8);").is_empty());
        assert!(found(kernels, "// unsafe { }\nlet x = \"unsafe { }\";").is_empty());
    }
}
