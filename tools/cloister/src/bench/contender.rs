//! Who is measured.

use serde::{Deserialize, Serialize};

/// One way to run the guest.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "&'static str")]
pub(super) enum Contender {
    /// The machine without a hypervisor.
    Native,
    /// Cloister, memory lent to the VM.
    Open,
    /// Cloister, memory donated to the VM.
    Protected,
    /// KVM with its host kernel at EL1.
    KvmNvhe,
    /// KVM with its host kernel at EL2.
    KvmVhe,
    /// KVM with the host kernel deprived; an ordinary VM.
    Pkvm,
}

impl Contender {
    /// In the order of the report's columns.
    pub(super) const ALL: [Self; 6] = [
        Self::Native,
        Self::Open,
        Self::Protected,
        Self::KvmNvhe,
        Self::KvmVhe,
        Self::Pkvm,
    ];

    /// Its name on command lines and in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Open => "cloister-open",
            Self::Protected => "cloister-protected",
            Self::KvmNvhe => "kvm-nvhe",
            Self::KvmVhe => "kvm-vhe",
            Self::Pkvm => "pkvm",
        }
    }

    /// Its name in the report.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Open => "Cloister, open",
            Self::Protected => "Cloister, protected",
            Self::KvmNvhe => "KVM nVHE",
            Self::KvmVhe => "KVM VHE",
            Self::Pkvm => "pKVM, ordinary VM",
        }
    }

    /// For the KVM host: what its command line gains, and what its kernel says when it came up that way.
    pub(super) fn kvm(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::KvmNvhe => Some(("kvm-arm.mode=nvhe", ": Hyp nVHE mode initialized")),
            Self::KvmVhe => Some(("", ": VHE mode initialized")),
            Self::Pkvm => Some(("kvm-arm.mode=protected", ": Protected ")),
            Self::Native | Self::Open | Self::Protected => None,
        }
    }

    /// Whether the guest runs under Cloister.
    pub(super) fn is_cloister(self) -> bool {
        matches!(self, Self::Open | Self::Protected)
    }
}

impl From<Contender> for &'static str {
    fn from(contender: Contender) -> Self {
        contender.name()
    }
}

impl TryFrom<String> for Contender {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|c| c.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|c| c.name()).collect();
            format!("no such contender; there are {}", names.join(", "))
        })
    }
}
