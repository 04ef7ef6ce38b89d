/** The checkers of rules 1 to 10, in their order. */
import type { Checker, Report } from './checker.ts';
import { exclusive } from './rule-01-exclusive.ts';
import { noTwins } from './rule-01-twin.ts';
import { isolated } from './rule-02-isolated.ts';
import { switchedOnIsolated } from './rule-02-power-on.ts';
import { certified } from './rule-03-certificate.ts';
import { clean } from './rule-03-clean.ts';
import { leavesLast } from './rule-04-leaves-last.ts';
import { fenced } from './rule-05-fenced.ts';
import { olderWorkEnded } from './rule-05-pending.ts';
import { data } from './rule-06-data.ts';
import { pruned } from './rule-06-pruned.ts';
import { terms } from './rule-06-terms.ts';
import { nothingLost } from './rule-07-nothing-lost.ts';
import { ownerMissed } from './rule-07-owner-missed.ts';
import { said } from './rule-07-said.ts';
import { faultless } from './rule-08-faultless.ts';
import { gitSays } from './rule-08-git-says.ts';
import { itEnds } from './rule-08-it-ends.ts';
import { asked } from './rule-09-asked.ts';
import { bounded } from './rule-09-bounded.ts';
import { secrets } from './rule-10-secrets.ts';

export function allCheckers(report: Report): readonly Checker[] {
  return [
    exclusive,
    noTwins,
    isolated,
    switchedOnIsolated,
    clean,
    certified,
    leavesLast,
    fenced,
    olderWorkEnded,
    data,
    terms,
    pruned,
    nothingLost,
    ownerMissed,
    said,
    itEnds,
    gitSays,
    faultless,
    bounded,
    asked,
    secrets,
  ].map((checker) => checker(report));
}
