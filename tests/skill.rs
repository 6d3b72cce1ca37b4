//! SKILL.md as the Agent Skills specification has it, and within its budget.

#![allow(missing_docs)]

mod pack;

#[test]
fn skill_md_is_what_the_agents_accept() {
    pack::report(&pack::skill::check(&pack::root()));
}
