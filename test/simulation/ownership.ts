/**
 * Whose a machine is, and whether its owner gave it up: the questions that several rules ask of the truth.
 */
import type { MachineTruth } from './machine-truth.ts';
import type { AllocationTruth, DecisionTruth, EndTruth, Truth } from './truth.ts';

/** Whether both are the same tenant's, by namespace and name: one may take over what the other left. */
export function sameTenant(truth: Truth, one: string, other: string): boolean {
  const [a, b] = [truth.allocations.get(one), truth.allocations.get(other)];
  return a !== undefined && b !== undefined && a.namespace === b.namespace && a.name === b.name;
}

function domainOf({ uid, namespace, object }: AllocationTruth): string {
  const { group } = object.spec.isolation;
  return group === undefined ? `allocation/${uid}` : `group/${namespace}/${group}`;
}

/** Whether a port of the machine in this domain is where its owner wants it, or where nobody else is. */
export function isOwnDomain(truth: Truth, owner: string | undefined, domain: string): boolean {
  if (domain === 'quarantine' || domain === 'closed') return true;
  if (owner === undefined) return false;
  for (const allocation of truth.allocations.values()) {
    const own = allocation.uid === owner || sameTenant(truth, allocation.uid, owner);
    if (own && domainOf(allocation) === domain) return true;
  }
  return false;
}

/** Why what stands on the machine may be destroyed; undefined: it may not. */
export function endOf(truth: Truth, machine: MachineTruth): string | undefined {
  const { data, name } = machine;
  if (data === undefined) return 'nobody';
  const decided = truth.decisions.get(name) ?? [];
  // A person who looks at a held node whose records were lost can name no epoch of the guest: that they looked after it ran must do.
  const counts = (one: DecisionTruth): boolean =>
    one.epoch >= data.epoch || (one.atMs >= data.sinceMs && one.held && one.recordsLost);
  if (decided.some((one) => one.action !== 'Adopt' && counts(one))) return 'a person';
  const own = truth.allocations.get(data.owner)?.ends.get(name);
  // A restored API server brings back an owner from before; the end that one of its name had decided since is under way all the same.
  const later = [...truth.allocations.values()].filter(({ uid }) => sameTenant(truth, uid, data.owner));
  const wasUnderWay = (one: EndTruth): boolean => one.atMs >= data.sinceMs && one.atMs <= truth.restoredAtMs;
  const end = own ?? later.map(({ ends }) => ends.get(name)).find((one) => one !== undefined && wasUnderWay(one));
  return end?.reason;
}

/** Whether the owner of what stands on the machine asked for this revision in its place. */
export function updateAsked(truth: Truth, machine: MachineTruth, revision: string): boolean {
  const asked = truth.allocations.get(machine.data?.owner ?? '')?.asked;
  return asked !== undefined && (asked.has('any') || asked.has(revision));
}
