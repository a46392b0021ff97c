//! Memory on Linux as this process can have it: what the machine has left, what a control group allows (those of a
//! container, a flatpak, a session), and what `ulimit` does. All of it stands in files.
#![forbid(unsafe_code)]

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// Memory that can be had without swapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// How much.
    pub bytes: u64,
    /// What says so.
    pub by: By,
}

/// What leaves the least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The machine.
    Machine,
    /// A control group, version 1 or 2.
    ControlGroup,
    /// `ulimit -v` or `ulimit -d`.
    Ulimit,
}

/// The least of all that is said in `proc` and `sys`, the folders of these names; `None` where nothing is.
pub fn room(proc: &Path, sys: &Path) -> Option<Room> {
    let bytes = |by| move |bytes| Room { bytes, by };
    let machine = number(&proc.join("meminfo"), "MemAvailable:").map(|kib| kib << 10);
    let rooms = machine.into_iter().map(bytes(By::Machine));
    let groups = groups(proc, sys).into_iter().filter_map(|group| group.left()).map(bytes(By::ControlGroup));
    rooms.chain(groups).chain(ulimits(proc).into_iter().map(bytes(By::Ulimit))).min_by_key(|room| room.bytes)
}

/// The files of a control group that tell of memory.
struct Group {
    folder: PathBuf,
    limits: &'static [&'static str],
    used: &'static str,
    /// What can be had back: the line of `memory.stat`.
    cached: &'static str,
}

impl Group {
    /// Bytes below its limit, cached files that are not in use counted as free; `None` where it has no limit.
    fn left(&self) -> Option<u64> {
        // Version 1 has no word for "none" but a number larger than any machine.
        const NONE: u64 = 1 << 60;
        let read = |name: &str| read_to_string(self.folder.join(name)).ok()?.trim().parse::<u64>().ok();
        let limit = self.limits.iter().filter_map(|name| read(name)).min().filter(|limit| *limit < NONE)?;
        let cached = number(&self.folder.join("memory.stat"), self.cached).unwrap_or(0);
        Some(limit.saturating_sub(read(self.used)?.saturating_sub(cached)))
    }
}

/// The control groups of this process, and all around them: each limits what is in it.
fn groups(proc: &Path, sys: &Path) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in read_to_string(proc.join("self/cgroup")).unwrap_or_default().lines() {
        // ID, controllers, path: "0::/user.slice" in version 2, "5:memory:/docker/1f" in version 1.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let group = |folder: &Path| match controllers {
            "" => Group {
                folder: folder.to_owned(),
                limits: &["memory.max", "memory.high"],
                used: "memory.current",
                cached: "inactive_file",
            },
            _ => Group {
                folder: folder.to_owned(),
                limits: &["memory.limit_in_bytes"],
                used: "memory.usage_in_bytes",
                cached: "total_inactive_file",
            },
        };
        let top = match controllers {
            "" => sys.join("fs/cgroup"),
            _ if controllers.split(',').any(|controller| controller == "memory") => sys.join("fs/cgroup/memory"),
            _ => continue,
        };
        // A container may see the path of the machine, but only its own groups: those that are there count. A path
        // that leads out of what can be seen begins with "..".
        let inside = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
        let is_inside = !Path::new(path).components().any(|part| part == Component::ParentDir);
        let own = if is_inside { top.join(inside.collect::<PathBuf>()) } else { top.clone() };
        groups.extend(own.ancestors().take_while(|folder| folder.starts_with(&top)).map(group));
    }
    groups
}

/// Bytes that `ulimit -v` and `ulimit -d` leave.
fn ulimits(proc: &Path) -> Vec<u64> {
    let (limits, status) = (proc.join("self/limits"), proc.join("self/status"));
    let left = |limit, used| Some(number(&limits, limit)?.saturating_sub(number(&status, used)? << 10));
    [("Max address space", "VmSize:"), ("Max data size", "VmData:")]
        .into_iter()
        .filter_map(|(l, u)| left(l, u))
        .collect()
}

/// The number after `name` in the line of `file` that begins with it.
fn number(file: &Path, name: &str) -> Option<u64> {
    let text = read_to_string(file).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine with 8 GiB left, and these files below its `proc` and `sys`.
    fn room_with(files: &[(&str, String)]) -> Room {
        let root = tempfile::tempdir().expect("a folder");
        let meminfo = ("proc/meminfo", "MemTotal: 1\nMemAvailable:    8388608 kB\n".to_owned());
        for (name, text) in [meminfo].iter().chain(files) {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("it can be made");
            std::fs::write(file, text).expect("it can be written");
        }
        room(&root.path().join("proc"), &root.path().join("sys")).expect("the machine says it")
    }

    fn left(files: &[(&str, &str)]) -> (u64, By) {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let Room { bytes, by } = room_with(&files);
        (bytes, by)
    }

    #[test]
    fn without_limits_the_machine_counts() {
        assert_eq!(left(&[]), (8 * GIB, By::Machine));
        let unlimited = "Limit Soft Hard Units\nMax address space unlimited unlimited bytes\n";
        let files = [
            ("proc/self/limits", unlimited),
            ("proc/self/status", "VmSize: 100 kB\n"),
            ("proc/self/cgroup", "5:memory:/a\n0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "1\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1\n"),
        ];
        assert_eq!(left(&files), (8 * GIB, By::Machine));
    }

    #[test]
    fn the_tightest_group_around_counts_and_its_cached_files_are_free() {
        let files = [
            ("proc/self/cgroup", "0::/user.slice/app.scope\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "3221225472\n"),
            ("sys/fs/cgroup/user.slice/memory.stat", "anon 1\ninactive_file 1073741824\nactive_file 7\n"),
            ("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/app.scope/memory.high", "6442450944\n"),
            ("sys/fs/cgroup/user.slice/app.scope/memory.current", "1073741824\n"),
        ];
        assert_eq!(left(&files), (2 * GIB, By::ControlGroup), "not the scope's 5 GiB");
        assert_eq!(left(&[&files[..3], &files[4..]].concat()), (GIB, By::ControlGroup), "nothing is cached");
    }

    #[test]
    fn a_container_of_version_1_that_sees_the_paths_of_the_machine_has_its_own_limit() {
        let files = [
            ("proc/self/cgroup", "7:cpu:/docker/1f\n5:hugetlb,memory:/docker/1f\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1610612736\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 536870912\n"),
        ];
        assert_eq!(left(&files), (GIB, By::ControlGroup));
        let outside = [("proc/self/cgroup", "5:memory:/../../b\n"), files[1], files[2]];
        assert_eq!(left(&outside), (GIB / 2, By::ControlGroup));
        let full = [files[0], files[1], ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000000000\n")];
        assert_eq!(left(&full), (0, By::ControlGroup));
    }

    #[test]
    fn ulimits_count_less_what_is_used_of_them() {
        let files = [
            (
                "proc/self/limits",
                "Max data size 2147483648 unlimited bytes\nMax address space 5368709120 unlimited b\n",
            ),
            ("proc/self/status", "VmSize:\t 1048576 kB\nVmData:\t  524288 kB\n"),
        ];
        assert_eq!(left(&files), (3 * GIB / 2, By::Ulimit));
        let address_space = [("proc/self/limits", "Max address space 1073741824 unlimited bytes\n"), files[1]];
        assert_eq!(left(&address_space), (0, By::Ulimit));
    }
}
