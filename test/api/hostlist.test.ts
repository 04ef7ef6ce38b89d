import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatHostlist, HostlistError, parseHostlist } from '../../controller/api/hostlist.ts';

const refused = (text: string, position: number, reason: RegExp, maxHosts?: number): void => {
  assert.throws(
    () => parseHostlist(text, maxHosts === undefined ? {} : { maxHosts }),
    (error) => error instanceof HostlistError && error.position === position && reason.test(error.reason),
    text,
  );
};

test('a hostlist is read as Slurm and ClusterShell read it', () => {
  assert.deepEqual(parseHostlist(''), []);
  assert.deepEqual(parseHostlist('login'), ['login']);
  assert.deepEqual(parseHostlist('n[8-11]'), ['n8', 'n9', 'n10', 'n11']);
  assert.deepEqual(parseHostlist('n[08-11],n8'), ['n08', 'n09', 'n10', 'n11', 'n8']);
  assert.deepEqual(parseHostlist('n[98-101]'), ['n98', 'n99', 'n100', 'n101']);
  assert.deepEqual(parseHostlist('n[098-101,7,007]'), ['n098', 'n099', 'n100', 'n101', 'n7', 'n007']);
  assert.deepEqual(parseHostlist('r[0-1]n[0-1].a'), ['r0n0.a', 'r0n1.a', 'r1n0.a', 'r1n1.a']);
  assert.deepEqual(parseHostlist('[0-1]x,a-b[1]'), ['0x', '1x', 'a-b1']);
  assert.deepEqual(parseHostlist('n[1-2],n[2-3]'), ['n1', 'n2', 'n3']);
  assert.equal(parseHostlist('t2r[00-43]n[00-31]').length, 1408);
});

test('what is no hostlist is refused with the place and the reason', () => {
  refused('a,,b', 2, /name is missing/);
  refused('a,', 2, /name is missing/);
  refused('n[0-3', 1, /never closed/);
  refused('n[]', 2, /number is missing/);
  refused('n[1-]', 4, /number is missing/);
  refused('n[1,]', 4, /number is missing/);
  refused('n[3-1]', 2, /backwards/);
  refused('n[001-20]', 2, /different widths/);
  refused('n[1-020]', 2, /different widths/);
  refused('n]', 1, /"\]" cannot stand here/);
  refused('n[1[2]]', 3, /cannot stand here/);
  refused('n1, n2', 3, /" " cannot stand here/);
  refused('N1', 0, /lower-case/);
  refused('n[1-9999999999999999]', 4, /15 digits/);
  refused('x'.repeat(254), 0, /longer than 253/);
  refused(`a${'[0]'.repeat(253)}`, 0, /longer than 253/);
});

test('a hostile hostlist is refused before it costs anything', () => {
  refused('n[0-999999999]', 1, /more than 100000 nodes/);
  refused('n[0-999999999999999]', 1, /more than 100000/);
  refused('a[0-999]b[0-999]c[0-999]', 9, /more than 100000/);
  refused('n[0-99999],n0', 11, /more than 100000/);
  refused('n[0-10]', 1, /more than 10 /, 10);
  refused('n,'.repeat(600_000), 1_048_576, /longer than/);
  assert.equal(parseHostlist('n[0-9]', { maxHosts: 10 }).length, 10);
});

test('formatting is canonical and folds racks and nodes', () => {
  assert.equal(formatHostlist([]), '');
  assert.equal(formatHostlist(['n2', 'n1', 'n1', 'n3', 'login']), 'login,n[1-3]');
  assert.equal(formatHostlist(parseHostlist('t2r01n[00-31],t2r00n[00-31]')), 't2r[00-01]n[00-31]');
  assert.equal(formatHostlist(parseHostlist('t2r00n[00-31],t2r01n[00-30]')), 't2r00n[00-31],t2r01n[00-30]');
  assert.equal(formatHostlist(parseHostlist('n[8-12]')), 'n[8-12]');
  assert.equal(formatHostlist(parseHostlist('n[0-12],n[00-12]')), 'n[0-9,00-12]');
  assert.equal(formatHostlist(parseHostlist('n[08-100]')), 'n[08-99,100]');
  const long = '12345678901234567890';
  assert.equal(formatHostlist([`n${long}x1`, `n${long}x2`]), `n${long}x[1-2]`);
  assert.throws(() => formatHostlist(['a,b']), HostlistError);
  assert.throws(() => formatHostlist(['']), HostlistError);
});

test('88,128 names fold to one short string', () => {
  const names: string[] = [];
  for (let rack = 0; rack < 864; rack++)
    for (let node = 0; node < 102; node++)
      names.push(`k${String(rack).padStart(3, '0')}n${String(node).padStart(3, '0')}`);
  const text = formatHostlist(names);
  assert.equal(text, 'k[000-863]n[000-101]');
  assert.deepEqual(parseHostlist(text), names);
});

const number = fc.oneof(
  fc.nat({ max: 12 }).map(String),
  fc.nat({ max: 12 }).map((n) => String(n).padStart(2, '0')),
  fc.nat({ max: 1200 }).map((n) => String(n).padStart(3, '0')),
  fc.constantFrom('999999999999999', '1000000000000000', '00000000000000000001'),
);
const name = fc
  .array(fc.oneof(fc.constantFrom('n', 'r', '-', '.', 'a-b'), number), { minLength: 1, maxLength: 5 })
  .map((parts) => parts.join(''));

test('parse(format(x)) is x as a set, whatever the order and the repetitions', () => {
  fc.assert(
    fc.property(fc.array(name, { maxLength: 60 }), (names) => {
      const text = formatHostlist(names);
      const parsed = parseHostlist(text);
      assert.deepEqual([...parsed].sort(), [...new Set(names)].sort());
      assert.equal(formatHostlist([...names, ...names].reverse()), text);
    }),
    { numRuns: 500 },
  );
});

test('any text is either refused with a HostlistError or names at most maxHosts nodes', () => {
  const piece = fc.constantFrom('n', '[', ']', ',', '-', '0', '1', '07', '99999', '.', 'é', ' ');
  fc.assert(
    fc.property(
      fc.array(piece, { maxLength: 14 }).map((pieces) => pieces.join('')),
      (text) => {
        let parsed: string[];
        try {
          parsed = parseHostlist(text, { maxHosts: 50 });
        } catch (error) {
          assert.ok(error instanceof HostlistError);
          return;
        }
        assert.ok(parsed.length <= 50);
        assert.deepEqual(parseHostlist(formatHostlist(parsed)).sort(), parsed.sort());
      },
    ),
    { numRuns: 2000 },
  );
});
