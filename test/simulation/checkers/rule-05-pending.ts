/**
 * Rule 5, fenced commands: when an agent accepts the first instruction of a newer epoch, nothing that was asked for under an older one can
 * still take effect. A drain or a fence does not wait for a BMC: power and boot order are what the end itself settles.
 */
import type { Checker, Report } from './checker.ts';

const ofBmc = /\/(on|off|power|order|shutdown)$/;

export function olderWorkEnded(report: Report): Checker {
  const epochs = new Map<string, number>();
  return {
    rule: 5,
    accepted({ verb, epoch }, _term, { name, storeId }, truth) {
      const key = `${name} ${storeId}`;
      const before = epochs.get(key) ?? 0;
      if (verb === 'inspect' || epoch <= before) return;
      epochs.set(key, epoch);
      const ends = verb === 'drain' || verb === 'fence';
      for (const token of truth.ground.pendingTokens(name)) {
        // `node.epoch.…`, as the operator names operations.
        const older = Number(token.slice(name.length + 1).split('.', 1)[0]) < epoch;
        if (!older || (ends && ofBmc.test(token))) continue;
        report(5, `${name}: ${verb} of epoch ${epoch} is accepted while ${token} can still take effect`);
      }
    },
  };
}
