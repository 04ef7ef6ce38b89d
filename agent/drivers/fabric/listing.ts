/**
 * What `nft -j list table` says, as memberships. Pure; what it reads may have been written by anybody.
 *
 * Invariant: a port has a membership only if all that concerns it agrees: one mark, one name, and the elements that go with them.
 */
import { changingSets, isDomain, type Membership, shutDomains } from './rules.ts';

export interface Listing {
  /** By interface; a port that is missing is not what this driver would have written. */
  readonly memberships: ReadonlyMap<string, Membership>;
  readonly marks: ReadonlyMap<string, number>;
  /** Everything that does not change with membership, for comparison. */
  readonly rules: string;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

interface Named {
  readonly ifname: string;
  readonly comment?: string;
}

function elementOf(value: unknown): Named | undefined {
  if (typeof value === 'string') return { ifname: value };
  if (!isObject(value) || !isObject(value.elem)) return undefined;
  const { val, comment } = value.elem;
  if (typeof val !== 'string') return undefined;
  return { ifname: val, ...(typeof comment === 'string' ? { comment } : {}) };
}

const elementsOf = (set: Json | undefined): unknown[] => (Array.isArray(set?.elem) ? set.elem : []);

function namesIn(set: Json | undefined): Set<string> {
  return new Set(elementsOf(set).flatMap((value) => elementOf(value)?.ifname ?? []));
}

/** Marks by interface of the set of pairs. */
function pairsIn(set: Json | undefined): Map<string, number[]> {
  const pairs = new Map<string, number[]>();
  for (const value of elementsOf(set)) {
    const concat = isObject(value) ? value.concat : undefined;
    if (!Array.isArray(concat)) continue;
    const [ifname, mark] = concat as unknown[];
    if (typeof ifname !== 'string' || typeof mark !== 'number') continue;
    pairs.set(ifname, [...(pairs.get(ifname) ?? []), mark]);
  }
  return pairs;
}

function domainsIn(map: Json | undefined): Map<string, { domain: string; mark: number }> {
  const domains = new Map<string, { domain: string; mark: number }>();
  for (const value of elementsOf(map)) {
    if (!Array.isArray(value)) continue;
    const [key, mark] = value as unknown[];
    const element = elementOf(key);
    if (element?.comment === undefined || typeof mark !== 'number' || !isDomain(element.comment)) continue;
    domains.set(element.ifname, { domain: element.comment, mark });
  }
  return domains;
}

/** One name a mark and one mark a name, or neither holds. */
function agreedMarks(domains: Iterable<{ domain: string; mark: number }>): Map<string, number> {
  const marks = new Map<string, number>();
  const names = new Map<number, string>();
  const torn = new Set<string>();
  for (const { domain, mark } of domains) {
    const expected = shutDomains.includes(domain) ? 0 : domain === 'provisioning' ? 1 : undefined;
    const fits = expected === undefined ? mark >= 16 : mark === expected;
    if (!fits || (marks.get(domain) ?? mark) !== mark) torn.add(domain);
    const other = names.get(mark);
    if (mark >= 16 && other !== undefined && other !== domain) torn.add(domain).add(other);
    marks.set(domain, mark);
    names.set(mark, domain);
  }
  for (const domain of torn) marks.delete(domain);
  return marks;
}

const changes: ReadonlySet<string> = new Set(changingSets);

function withoutHandles(item: Json): Json {
  return Object.fromEntries(
    Object.entries(item).map(([kind, fields]) => {
      if (!isObject(fields)) return [kind, fields];
      const { handle: _handle, elem, ...rest } = fields;
      const fixed = typeof fields.name === 'string' && changes.has(fields.name) ? undefined : elem;
      return [kind, fixed === undefined ? rest : { ...rest, elem: fixed }];
    }),
  );
}

/**
 * @param text what `nft -j list table bridge NAME` printed
 * @throws Error when it is no listing
 */
export function readListing(text: string): Listing {
  const parsed: unknown = JSON.parse(text);
  const items =
    isObject(parsed) && Array.isArray(parsed.nftables) ? (parsed.nftables as unknown[]).filter(isObject) : undefined;
  if (items === undefined) throw new Error('nft listed no rules');
  const named = (name: string): Json | undefined =>
    items.map(({ set, map }) => set ?? map).find((fields): fields is Json => isObject(fields) && fields.name === name);
  const domains = domainsIn(named('domain'));
  const marks = agreedMarks(domains.values());
  const members = pairsIn(named('member'));
  const tenants = namesIn(named('tenant'));
  const provisioning = namesIn(named('provisioning'));
  const outward = namesIn(named('outward'));
  const internet = namesIn(named('internet'));
  const memberships = new Map<string, Membership>();
  for (const [ifname, { domain, mark }] of domains) {
    const tenant = mark >= 16;
    const pairs = members.get(ifname) ?? [];
    const whole =
      marks.get(domain) === mark &&
      (tenant ? pairs.length === 1 && pairs[0] === mark : pairs.length === 0) &&
      tenants.has(ifname) === tenant &&
      provisioning.has(ifname) === (mark === 1) &&
      (tenant || !outward.has(ifname)) &&
      (outward.has(ifname) || !internet.has(ifname));
    if (!whole) continue;
    memberships.set(ifname, {
      domain,
      egress: internet.has(ifname) ? 'Internet' : outward.has(ifname) ? 'Shared' : 'None',
    });
  }
  // An element of a port that no domain names would still let frames in.
  const strays = [...members.keys(), ...tenants, ...provisioning, ...outward, ...internet].some(
    (ifname) => !domains.has(ifname),
  );
  const rules = items.filter((item) => !('metainfo' in item)).map(withoutHandles);
  return { memberships: strays ? new Map() : memberships, marks, rules: JSON.stringify(rules) };
}
