//! Certificates for tests: of a group's own authority, or of another one that says the same.

use std::path::Path;

use indelible_core::TrailId;
use indelible_local::LocalCluster;
use indelible_tls::issue::{Authority, Issued, Leaf};
use indelible_tls::{Name, Role};

/// Issues certificates with the names of one trail.
pub struct Certificates {
    /// Whose certificates they are.
    pub authority: Authority,
    /// In which the names mean something.
    pub trail: TrailId,
}

impl Certificates {
    /// Of the authority that `init` made for a group.
    pub fn of(cluster: &LocalCluster) -> Certificates {
        let folder = cluster.dir().join("ca");
        let (cert, key) = (read(&folder.join("ca.crt")), read(&folder.join("ca.key")));
        let authority = Authority::from_pem(&cert, &key).expect("the authority of init");
        let trail = authority.trail().expect("init made it for a trail");
        Certificates { authority, trail }
    }

    /// Of an authority that nobody has heard of, for the same names.
    pub fn of_another(trail: TrailId) -> Certificates {
        Certificates { authority: Authority::new(&trail).expect("a new authority"), trail }
    }

    /// Of a node.
    pub fn node(&self, id: u64) -> Issued {
        self.issue(Role::Node(id))
    }

    /// Of whoever appends and reads.
    pub fn client(&self, name: &str) -> Issued {
        self.issue(Role::Client(name.to_owned()))
    }

    /// Of whoever changes the group.
    pub fn admin(&self, name: &str) -> Issued {
        self.issue(Role::Admin(name.to_owned()))
    }

    /// As [`Authority::issue`] wants it: the usual validity, no hosts.
    pub fn leaf(&self, role: Role) -> Leaf {
        Leaf::new(Name::new(self.trail, role).expect("a name of a test"))
    }

    fn issue(&self, role: Role) -> Issued {
        self.authority.issue(&self.leaf(role)).expect("a certificate")
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
