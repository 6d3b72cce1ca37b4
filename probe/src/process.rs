//! What the system shows of the service's process (`--pid`, Linux only), and the signal that stops it.

use std::process::Stdio;

/// The number of open file descriptors; `None` for a process that cannot be seen, or that has ended.
pub(crate) fn open_files(pid: u32) -> Option<usize> {
    let count = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    (count > 0).then_some(count)
}

/// Whether the process has ended, as far as the system shows it.
pub(crate) fn has_ended(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state is the first field after the name in parentheses.
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => std::path::Path::new("/proc/self").exists(),
    }
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Sends SIGTERM; false when that was not possible.
pub(crate) async fn terminate(pid: u32) -> bool {
    tokio::process::Command::new("kill")
        .args(["-TERM", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success())
}
