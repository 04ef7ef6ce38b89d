/**
 * Rule 5, fenced commands: an agent accepts nothing of a lower term or epoch than it accepted before, also after its restart, and asks its
 * drivers for nothing under an epoch that a newer one has replaced.
 *
 * A log that lost what it had promised to keep starts over: what it forgot nobody can hold it to.
 */
import type { Checker, Report } from './checker.ts';

/** `node.epoch.State.verb.term.attempt/what`, as the operator names operations. */
const epochOf = (node: string, token: string): number | undefined => {
  const match = token.startsWith(`${node}.`) ? /^(\d+)\./.exec(token.slice(node.length + 1)) : null;
  return match?.[1] === undefined ? undefined : Number(match[1]);
};

export function fenced(report: Report): Checker {
  const terms = new Map<string, number>();
  const epochs = new Map<string, number>();
  return {
    rule: 5,
    accepted({ verb, epoch }, term, { name, rack, generation, storeId }) {
      const log = `${rack} ${storeId} ${generation}`;
      const key = `${name} ${storeId} ${generation}`;
      const highestTerm = terms.get(log) ?? 0;
      const highestEpoch = epochs.get(key) ?? 0;
      if (term < highestTerm) report(5, `${name}: ${verb} of term ${term} is accepted after term ${highestTerm}`);
      if (epoch < highestEpoch) report(5, `${name}: ${verb} of epoch ${epoch} is accepted after epoch ${highestEpoch}`);
      terms.set(log, Math.max(term, highestTerm));
      if (verb !== 'inspect') epochs.set(key, Math.max(epoch, highestEpoch));
    },
    acted({ command, token }, { name, generation, storeId }) {
      const epoch = token === undefined ? undefined : epochOf(name, token);
      const highest = epochs.get(`${name} ${storeId} ${generation}`) ?? 0;
      if (epoch !== undefined && epoch < highest) {
        report(5, `${name}: ${command} is asked for under epoch ${epoch} after epoch ${highest} was accepted`);
      }
    },
  };
}
