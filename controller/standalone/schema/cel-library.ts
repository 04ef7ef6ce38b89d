/**
 * The CEL environment of `x-kubernetes-validations`: cel-js plus the Kubernetes extension functions that it lacks.
 *
 * Functions that cel-js and Kubernetes do not share and that are not registered here (url, ip, cidr, sets, format, two-variable
 * macros) fail when the CRD is compiled, never silently when an object is checked.
 */
import { Environment } from '@marcbachmann/cel-js';
import { parseQuantity, Quantity } from './quantity.ts';

type Comparable = bigint | number | string | boolean;

function extremum(list: readonly Comparable[], wanted: (a: Comparable, b: Comparable) => boolean): Comparable {
  const [first, ...rest] = list;
  if (first === undefined) throw new Error('min/max called on an empty list');
  return rest.reduce((best, item) => (wanted(item, best) ? item : best), first);
}

/** Maps are compared key by key and lists item by item, as CEL's `==` does. */
function celEquals(a: unknown, b: unknown): boolean {
  return a === b || (typeof a === 'object' && JSON.stringify(a, tagged) === JSON.stringify(b, tagged));
}

function tagged(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value;
}

function sum(list: readonly (bigint | number)[]): bigint | number {
  if (list.every((item) => typeof item === 'bigint')) return list.reduce((total, item) => total + item, 0n);
  return list.reduce((total: number, item) => total + Number(item), 0);
}

function registerLists(environment: Environment): void {
  environment
    .registerFunction('list<dyn>.sum(): dyn', sum)
    .registerFunction('list<dyn>.min(): dyn', (list: Comparable[]) => extremum(list, (a, b) => a < b))
    .registerFunction('list<dyn>.max(): dyn', (list: Comparable[]) => extremum(list, (a, b) => a > b))
    .registerFunction('list<dyn>.isSorted(): bool', (list: Comparable[]) =>
      list.every((item, i) => i === 0 || (list[i - 1] ?? item) <= item),
    )
    .registerFunction('list<dyn>.indexOf(dyn): int', (list: unknown[], wanted: unknown) =>
      BigInt(list.findIndex((item) => celEquals(item, wanted))),
    )
    .registerFunction('list<dyn>.lastIndexOf(dyn): int', (list: unknown[], wanted: unknown) =>
      BigInt(list.findLastIndex((item) => celEquals(item, wanted))),
    );
}

function registerStrings(environment: Environment): void {
  environment
    .registerFunction('string.charAt(int): string', (text: string, at: bigint) => {
      const letters = [...text];
      if (at < 0n || at > BigInt(letters.length)) throw new Error(`index out of range: ${at}`);
      return letters[Number(at)] ?? '';
    })
    .registerFunction('string.replace(string, string): string', (text: string, from: string, to: string) =>
      text.replaceAll(from, () => to),
    )
    .registerFunction(
      'string.replace(string, string, int): string',
      (text: string, from: string, to: string, limit: bigint) => {
        let left = limit < 0n ? Number.POSITIVE_INFINITY : Number(limit);
        return text.replaceAll(from, (found) => (left-- > 0 ? to : found));
      },
    )
    .registerFunction('string.find(string): string', (text: string, pattern: string) => {
      return new RegExp(pattern).exec(text)?.[0] ?? '';
    })
    .registerFunction('string.findAll(string): list<string>', (text: string, pattern: string) =>
      [...text.matchAll(new RegExp(pattern, 'g'))].map((match) => match[0]),
    );
}

function registerQuantities(environment: Environment): void {
  environment
    .registerType('Quantity', Quantity)
    .registerFunction('isQuantity(string): bool', (text: string) => parseQuantity(text) !== undefined)
    .registerFunction('quantity(string): Quantity', (text: string) => {
      const quantity = parseQuantity(text);
      if (quantity === undefined) throw new Error(`quantities must match the format of Kubernetes: ${text}`);
      return quantity;
    })
    .registerFunction('Quantity.compareTo(Quantity): int', (a: Quantity, b: Quantity) => BigInt(a.compareTo(b)))
    .registerFunction('Quantity.isGreaterThan(Quantity): bool', (a: Quantity, b: Quantity) => a.compareTo(b) > 0)
    .registerFunction('Quantity.isLessThan(Quantity): bool', (a: Quantity, b: Quantity) => a.compareTo(b) < 0)
    .registerFunction('Quantity.sign(): int', (a: Quantity) => BigInt(a.sign()))
    .registerFunction('Quantity.isInteger(): bool', (a: Quantity) => a.isInteger())
    .registerFunction('Quantity.asInteger(): int', (a: Quantity) => a.asInteger())
    .registerFunction('Quantity.asApproximateFloat(): double', (a: Quantity) => a.asApproximateFloat())
    .registerFunction('Quantity.add(Quantity): Quantity', (a: Quantity, b: Quantity) => a.add(b))
    .registerFunction('Quantity.sub(Quantity): Quantity', (a: Quantity, b: Quantity) => a.sub(b))
    .registerOperator('Quantity == Quantity', (a: Quantity, b: Quantity) => a.compareTo(b) === 0);
}

/**
 * An environment in which `self` and `oldSelf` may be used; one serves all rules of a process.
 * @param oldSelf `optional<dyn>` for rules with `optionalOldSelf`.
 */
export function validationEnvironment(oldSelf: 'dyn' | 'optional<dyn>'): Environment {
  const environment = new Environment({
    unlistedVariablesAreDyn: false,
    enableOptionalTypes: true,
    homogeneousAggregateLiterals: false,
  });
  registerLists(environment);
  registerStrings(environment);
  registerQuantities(environment);
  return environment.registerVariable('self', 'dyn').registerVariable('oldSelf', oldSelf);
}
