//! What happens to published versions: aliases, the champion, retirement.

use super::{Inapplicable, PipelineState};
use crate::Timestamp;
use crate::chunk::ChunkState;
use crate::id::Version;
use crate::version::{Alias, Disposition, absorbed, lineage};

impl PipelineState {
    pub(super) fn crown(&mut self, version: Version) {
        if let Some(old) = self.aliases.insert(Alias::Champion, version)
            && old != version
        {
            self.aliases.insert(Alias::Previous, old);
        }
    }

    pub(super) fn set_alias(&mut self, alias: Alias, version: Version) -> Result<(), Inapplicable> {
        if !self.versions.contains_key(&version) {
            return Err(Inapplicable::UnknownVersion(version));
        }
        self.aliases.insert(alias, version);
        Ok(())
    }

    /// Chunks along the new lineage are absorbed; those only the old one had go where `disposition` says.
    pub(super) fn move_champion(&mut self, to: Version, disposition: Disposition) -> Result<(), Inapplicable> {
        if !self.versions.contains_key(&to) {
            return Err(Inapplicable::UnknownVersion(to));
        }
        let (old_line, new_line) = (lineage(&self.versions, self.tip), lineage(&self.versions, Some(to)));
        let kept = absorbed(&self.versions, &new_line);
        for id in absorbed(&self.versions, &old_line).difference(&kept) {
            let state = match disposition {
                Disposition::Requeue => ChunkState::Sealed,
                Disposition::Hold => {
                    ChunkState::Refused { reason: format!("held: absorbed by a version that {to} does not continue") }
                }
                Disposition::Drop => {
                    ChunkState::Quarantined { reason: format!("dropped when the champion moved to {to}") }
                }
            };
            self.chunk(id)?.state = state;
        }
        for version in &new_line {
            let ids = self.versions[version].chunks.clone();
            self.set_chunks(&ids, &ChunkState::Absorbed { version: *version })?;
        }
        self.crown(to);
        self.tip = Some(to);
        Ok(())
    }

    pub(super) fn retire(&mut self, versions: &[Version], at: Timestamp) {
        self.retired.extend(versions.iter().map(|version| (*version, at)));
        self.leaving.extend(versions);
    }

    pub(super) fn forget_files(&mut self, versions: &[Version]) {
        for version in versions {
            self.leaving.remove(version);
        }
    }
}
