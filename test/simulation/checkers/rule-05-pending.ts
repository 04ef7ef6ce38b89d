/**
 * Rule 5, fenced commands: when an agent opens a newer epoch, nothing that was asked for under an older one can still take effect. A drain
 * or a fence does not wait for a BMC: power and boot order are what the end itself settles. Nor does it wait for the trusted image of a
 * reclaim before it, which may hang: what that image still does it does to disks that had ended, and it is gone with the machine's power
 * before the next attestation, under whose boot alone anything counts.
 *
 * Judged by the agent's log, which has the epoch before the answer: an agent may die between both, and what is asked of it next is then no
 * longer what opened the epoch.
 */
import type { Checker, Report } from './checker.ts';

const ofBmc = /\/(on|off|power|order|shutdown)$/;
const ofTrustedImage = /\/(attest|wipe|check)$/;

export function olderWorkEnded(report: Report): Checker {
  const epochs = new Map<string, number>();
  return {
    rule: 5,
    logged({ epoch, operation }, { name, storeId }, truth) {
      const key = `${name} ${storeId}`;
      if (epoch <= (epochs.get(key) ?? 0)) return;
      epochs.set(key, epoch);
      const verb = operation?.instruction.verb;
      const ends = verb === 'drain' || verb === 'fence';
      for (const token of truth.ground.pendingTokens(name)) {
        // `node.epoch.…`, as the operator names operations.
        const older = Number(token.slice(name.length + 1).split('.', 1)[0]) < epoch;
        if (!older || (ends && (ofBmc.test(token) || ofTrustedImage.test(token)))) continue;
        report(5, `${name}: ${verb} of epoch ${epoch} is accepted while ${token} can still take effect`);
      }
    },
  };
}
