import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentLink } from '../../controller/agents/port.ts';
import { AgentTerms } from '../../controller/reconcilers/terms.ts';
import { silentLogger } from '../../controller/runtime/log.ts';

/** A link whose agent reports what the test says. */
function agent(highestTerm?: number): { link: AgentLink; report(highestTerm: number): void } {
  let hello = highestTerm === undefined ? undefined : { highestTerm };
  const link = { name: 'r0', state: () => ({ hello }) } as unknown as AgentLink;
  return { link, report: (next) => (hello = { highestTerm: next }) };
}

function leading(first: number): { terms: AgentTerms; raised: number[]; take(term: number | undefined): void } {
  let term: number | undefined = first;
  const raised: number[] = [];
  const raiseTerm = (above: number): void => void raised.push(above);
  return {
    terms: new AgentTerms({ term: () => term, raiseTerm, log: silentLogger }),
    raised,
    take: (next) => (term = next),
  };
}

test('an agent that knows an older term is instructed, and nothing is raised by its coming back', () => {
  const { terms, raised, take } = leading(5);
  const { link, report } = agent(3);
  terms.heard(link);
  assert.equal(terms.termFor(link), 5);
  report(5);
  terms.heard(link);
  assert.equal(terms.termFor(link), 5);
  assert.deepEqual(raised, []);
  take(undefined);
  assert.equal(terms.termFor(link), undefined);
});

for (const known of [5, 9]) {
  test(`an agent that knew term ${known} before this leadership of term 5 gets nothing until a higher one was taken`, () => {
    const { terms, raised, take } = leading(5);
    const { link, report } = agent(known);
    assert.equal(terms.termFor(link), undefined);
    assert.deepEqual(raised, [known]);
    take(known + 1);
    assert.equal(terms.termFor(link), known + 1);
    report(known + 1);
    terms.heard(link);
    assert.deepEqual(raised, [known]);
  });
}

test('an agent that later reports a higher term than ours gets nothing under ours', () => {
  const { terms, raised } = leading(5);
  const { link, report } = agent(1);
  terms.heard(link);
  report(6);
  terms.heard(link);
  assert.equal(terms.termFor(link), undefined);
  assert.deepEqual(raised, [6]);
});

test('an agent that was not heard yet gets nothing', () => {
  const { terms } = leading(5);
  assert.equal(terms.termFor(agent().link), undefined);
});

test('a leap that no leaderships can explain raises nothing, and the other agents are instructed', () => {
  const { terms, raised } = leading(5);
  const [liar, honest] = [agent(Number.MAX_SAFE_INTEGER - 1).link, agent(4).link];
  terms.heard(liar);
  terms.heard(honest);
  assert.deepEqual(raised, []);
  assert.equal(terms.termFor(liar), undefined);
  assert.equal(terms.termFor(honest), 5);
});
