//! The crates that the manifests name.

/// Advisories and newer versions need the network: CONTRIBUTING.md has the commands.
#[test]
fn every_dependency_is_used_licensed_and_there_once() {
    xtask::report(&xtask::dependencies::check(&xtask::root()));
}
