//! SKILL.md as the Agent Skills specification has it, and within its budget.

#[test]
fn skill_md_is_what_the_agents_accept() {
    xtask::report(&xtask::skill::check(&xtask::root()));
}
