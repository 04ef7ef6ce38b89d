/** The checkers of rules 1 to 10, in their order. */
import type { Checker, Report } from './checker.ts';
import { exclusive } from './rule-01-exclusive.ts';
import { isolated } from './rule-02-isolated.ts';
import { clean } from './rule-03-clean.ts';
import { leavesLast } from './rule-04-leaves-last.ts';
import { fenced } from './rule-05-fenced.ts';
import { data } from './rule-06-data.ts';
import { nothingLost } from './rule-07-nothing-lost.ts';
import { itEnds } from './rule-08-it-ends.ts';
import { bounded } from './rule-09-bounded.ts';
import { secrets } from './rule-10-secrets.ts';

export function allCheckers(report: Report): readonly Checker[] {
  return [exclusive, isolated, clean, leavesLast, fenced, data, nothingLost, itEnds, bounded, secrets].map((checker) =>
    checker(report),
  );
}
