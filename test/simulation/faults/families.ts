/**
 * The families of faults, as `--faults` names them.
 *
 * Invariant: what a seed draws from `families` stays as it is; git's faults and `operator.down` are drawn apart (plan.ts).
 */
import { agentFaults } from './agents.ts';
import { apiFaults } from './api.ts';
import type { FaultFamily, FaultKind } from './family.ts';
import { gitFaults } from './git.ts';
import { bmcFaults, fabricFaults, machineFaults, tenantFaults } from './machines.ts';
import { operatorFaults } from './operator.ts';
import { peopleFaults } from './people.ts';

export const families: readonly FaultFamily[] = [
  apiFaults,
  operatorFaults,
  agentFaults,
  peopleFaults,
  machineFaults,
  fabricFaults,
  bmcFaults,
  tenantFaults,
];

export const allFamilies: readonly FaultFamily[] = [...families, gitFaults];

/** @param names of families or kinds, or `none`; empty: all but git's. @throws for a name that is neither */
export function kindsOf(names: readonly string[]): readonly FaultKind[] {
  const all = allFamilies.flatMap(({ kinds }) => kinds);
  if (names.length === 0) return families.flatMap(({ kinds }) => kinds);
  return names.flatMap((name) => {
    if (name === 'none') return [];
    const family = allFamilies.find((one) => one.name === name);
    const chosen = family?.kinds ?? all.filter((kind) => kind.name === name);
    if (chosen.length === 0) {
      const known = allFamilies.map((one) => one.name).join(', ');
      throw new Error(`no faults ${name}: the families are ${known}, a kind is written family.kind`);
    }
    return chosen;
  });
}
