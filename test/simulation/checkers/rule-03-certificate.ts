/**
 * Rule 3, clean before reuse, as to how: disks are wiped as strongly as their owner asked, every reclaim attests with a nonce of its own,
 * and the image that goes onto a disk is the one whose digest was asked for.
 */
import type { Checker, Report } from './checker.ts';

const strength: Readonly<Record<string, number>> = { Quick: 0, Crypto: 1, Full: 2 };

export function certified(report: Report): Checker {
  /** Epoch by `node nonce`. */
  const nonces = new Map<string, number>();
  /** Digest asked for, by `node epoch`. */
  const digests = new Map<string, string>();
  return {
    rule: 3,
    accepted(instruction, _term, { name }) {
      const { epoch } = instruction;
      if (instruction.verb === 'reimage') digests.set(`${name} ${epoch}`, instruction.args.environment.image.sha256);
      if (instruction.verb !== 'attest') return;
      const key = `${name} ${instruction.args.nonce}`;
      const before = nonces.get(key) ?? epoch;
      if (before !== epoch) report(3, `${name}: the nonce of epoch ${before} is used again in epoch ${epoch}`);
      nonces.set(key, epoch);
    },
    machine({ event, detail }, { name, data }, truth) {
      if (event === 'imaged') {
        const asked = digests.get(`${name} ${detail.epoch}`);
        if (asked !== undefined && asked !== detail.digest)
          report(3, `${name}: an image of digest ${detail.digest} goes onto its disk, and ${asked} was asked for`);
      }
      if (event !== 'wiped' || data === undefined) return;
      const asked = truth.allocations.get(data.owner)?.object.spec.reclaim.erase ?? 'Quick';
      if ((strength[String(detail.erase)] ?? 0) >= (strength[asked] ?? 0)) return;
      report(3, `${name}: a disk of ${truth.nameOf(data.owner)} is erased ${detail.erase}, and ${asked} was asked for`);
    },
  };
}
