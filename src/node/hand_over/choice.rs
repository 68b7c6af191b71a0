//! Which voter should lead instead of this node, and why. Pure.

use std::fmt;
use std::time::Duration;

/// Leadership moves only in groups in which this many voters answer, the leader included: with
/// fewer, the next failure stops the group, and an election beside it costs more than it mends.
pub(super) const VOTERS_MIN: usize = 3;

/// Why a leader should make room, most important first. A new reason is a variant here, a place in
/// [`Reason::ALL`], and a line each in `Display`, in `consequence` and where `Problems` are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It can take no events.
    DiskFull,
    /// It can publish no checkpoints.
    LogKeyMissing,
    /// Its clock differs from what a majority's say: its signatures have a wrong time.
    ClockWrong,
    /// New clients do not believe it.
    CertificateExpired,
}

impl Reason {
    /// All, most important first.
    const ALL: [Reason; 4] =
        [Reason::DiskFull, Reason::LogKeyMissing, Reason::ClockWrong, Reason::CertificateExpired];

    /// What follows as long as the node leads all the same, and what to do.
    pub(super) fn consequence(self) -> &'static str {
        match self {
            Reason::DiskFull => "nothing is appended; hint: free disk space",
            Reason::LogKeyMissing => {
                "no checkpoints are published; hint: `indelible node-key --log-key FILE`, and start \
                 the node again"
            }
            Reason::ClockWrong => {
                "stamps follow the others' clocks; hint: set this machine's clock right"
            }
            Reason::CertificateExpired => "new clients cannot append; hint: `indelible cert renew`",
        }
    }

    /// Whether clients cannot append while a node leads that has this problem.
    fn stops_appends(self) -> bool {
        match self {
            Reason::DiskFull | Reason::CertificateExpired => true,
            Reason::LogKeyMissing | Reason::ClockWrong => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::DiskFull => "this node's disk is nearly full",
            Reason::LogKeyMissing => "this node has no log key",
            Reason::ClockWrong => "this node's clock is wrong",
            Reason::CertificateExpired => "this node's certificate has expired",
        })
    }
}

/// What makes a voter a bad leader. The smaller of two is the better leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problems([bool; Reason::ALL.len()]);

impl Problems {
    /// Those of `Reason::ALL` for which `has` is true.
    pub(super) fn of(has: impl FnMut(Reason) -> bool) -> Problems {
        Problems(Reason::ALL.map(has))
    }

    /// Whether it is one of them.
    pub(super) fn has(self, reason: Reason) -> bool {
        Reason::ALL.into_iter().zip(self.0).any(|(other, is_so)| other == reason && is_so)
    }

    /// The most important one.
    pub(super) fn first(self) -> Option<Reason> {
        Reason::ALL.into_iter().zip(self.0).find(|(_, is_so)| *is_so).map(|(reason, _)| reason)
    }

    /// Why a node with these problems should make room for one with `theirs`; none if that one
    /// would not be strictly better.
    ///
    /// The first problem in which the two differ decides. A leader that clients can append to
    /// makes no room for one that they cannot append to.
    fn reason_to_prefer(self, theirs: Problems) -> Option<Reason> {
        let each = || Reason::ALL.into_iter().zip(self.0.into_iter().zip(theirs.0));
        let (reason, (mine, _)) = each().find(|(_, (mine, theirs))| mine != theirs)?;
        let is_new = |(other, (mine, theirs)): (Reason, (bool, bool))| {
            theirs && !mine && other.stops_appends()
        };
        let would_stop_appends = !reason.stops_appends() && each().any(is_new);
        (mine && !would_stop_appends).then_some(reason)
    }
}

/// Another voter, as the leader knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its id.
    pub(super) id: u64,
    /// As of its last answer.
    pub(super) problems: Problems,
    /// The last entry that it is known to have.
    pub(super) matched: Option<u64>,
    /// How long ago it answered; none if it has not answered this process.
    pub(super) answered: Option<Duration>,
}

impl Candidate {
    fn answers(&self, within: Duration) -> bool {
        self.answered.is_some_and(|ago| ago <= within)
    }
}

/// Why leadership stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stays {
    /// So few voters answer that leadership does not move.
    #[error("only {answering} voters answer and {VOTERS_MIN} must")]
    TooFewAnswer {
        /// The leader included.
        answering: usize,
    },
    /// Nobody would lead better.
    #[error("no voter that answers is better")]
    NobodyBetter,
}

/// The best voter that is strictly better than a leader with the problems `mine`, and why it is.
/// Voters that have not answered for longer than `within` do not count.
pub(super) fn choose(
    mine: Problems,
    others: &[Candidate],
    within: Duration,
) -> Result<(u64, Reason), Stays> {
    let answering: Vec<&Candidate> = others.iter().filter(|other| other.answers(within)).collect();
    if answering.len() + 1 < VOTERS_MIN {
        return Err(Stays::TooFewAnswer { answering: answering.len() + 1 });
    }
    let better = answering.into_iter().filter_map(|other| {
        let reason = mine.reason_to_prefer(other.problems)?;
        Some((other, reason))
    });
    let best = better.min_by_key(|(other, _)| rank(other));
    best.map(|(other, reason)| (other.id, reason)).ok_or(Stays::NobodyBetter)
}

/// The voter that should lead next when somebody has to: the best one of those that answer.
pub(super) fn next(others: &[Candidate], within: Duration) -> Option<u64> {
    let best = others.iter().filter(|other| other.answers(within)).min_by_key(|other| rank(other));
    best.map(|best| best.id)
}

/// Fewest problems first, then most of the log.
fn rank(other: &Candidate) -> (Problems, std::cmp::Reverse<Option<u64>>) {
    (other.problems, std::cmp::Reverse(other.matched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reason::{CertificateExpired, DiskFull, LogKeyMissing};

    const WITHIN: Duration = Duration::from_secs(2);

    fn problems(list: &[Reason]) -> Problems {
        Problems::of(|reason| list.contains(&reason))
    }

    fn voter(id: u64, list: &[Reason]) -> Candidate {
        let answered = Some(Duration::from_millis(100));
        Candidate { id, problems: problems(list), matched: Some(7), answered }
    }

    #[test]
    fn the_most_important_problem_decides() {
        let others = [voter(2, &[LogKeyMissing]), voter(3, &[DiskFull])];
        let chosen = choose(problems(&[DiskFull]), &others, WITHIN);
        assert_eq!(chosen, Ok((2, DiskFull)));
        let others = [voter(2, &[LogKeyMissing]), voter(3, &[])];
        assert_eq!(choose(problems(&[DiskFull]), &others, WITHIN), Ok((3, DiskFull)));
        assert_eq!(choose(problems(&[LogKeyMissing]), &others, WITHIN), Ok((3, LogKeyMissing)));
        let mine = problems(&[DiskFull, CertificateExpired]);
        let others = [voter(2, &[DiskFull]), voter(3, &[DiskFull, LogKeyMissing])];
        assert_eq!(choose(mine, &others, WITHIN), Ok((2, CertificateExpired)));
    }

    #[test]
    fn nobody_makes_room_for_an_equal_or_a_worse_one() {
        let each = |bits: u8| Problems([0, 1, 2, 3].map(|place| bits >> place & 1 > 0));
        let all: Vec<Problems> = (0..16).map(each).collect();
        for mine in &all {
            assert_eq!(mine.reason_to_prefer(*mine), None);
            for theirs in &all {
                // Leadership never goes round: of two, at most one makes room.
                let there = mine.reason_to_prefer(*theirs).is_some();
                let back = theirs.reason_to_prefer(*mine).is_some();
                assert!(!(there && back), "{mine:?} {theirs:?}");
                assert!(!there || theirs < mine, "{mine:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn clients_that_can_append_are_not_given_up_for_checkpoints() {
        let mine = problems(&[LogKeyMissing]);
        let others = [voter(2, &[CertificateExpired]), voter(3, &[LogKeyMissing])];
        assert_eq!(choose(mine, &others, WITHIN), Err(Stays::NobodyBetter));
        let mine = problems(&[LogKeyMissing, CertificateExpired]);
        assert_eq!(choose(mine, &others, WITHIN), Ok((2, LogKeyMissing)));
    }

    #[test]
    fn fewer_than_three_answering_voters_change_nothing() {
        let mine = problems(&[DiskFull]);
        let silent = Candidate { answered: None, ..voter(3, &[]) };
        let late = Candidate { answered: Some(WITHIN * 2), ..voter(3, &[]) };
        for others in [vec![], vec![voter(2, &[])], vec![voter(2, &[]), silent]] {
            let answering = others.iter().filter(|other| other.answered.is_some()).count() + 1;
            let stays = choose(mine, &others, WITHIN);
            assert_eq!(stays, Err(Stays::TooFewAnswer { answering }));
        }
        let stays = choose(mine, &[voter(2, &[]), late], WITHIN);
        assert_eq!(stays, Err(Stays::TooFewAnswer { answering: 2 }));
    }

    #[test]
    fn whoever_must_follow_answers_and_is_the_best() {
        let silent = Candidate { answered: None, matched: Some(9), ..voter(2, &[]) };
        let others = [silent, voter(3, &[LogKeyMissing]), voter(4, &[])];
        assert_eq!(next(&others, WITHIN), Some(4));
        assert_eq!(next(&[silent], WITHIN), None);
        assert_eq!(next(&[], WITHIN), None);
        let behind = Candidate { matched: Some(3), ..voter(5, &[]) };
        assert_eq!(next(&[behind, voter(6, &[])], WITHIN), Some(6));
    }
}
