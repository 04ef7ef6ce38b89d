import { apiContract } from '../contract/api.ts';
import { standaloneTarget } from '../support/api-target.ts';
import { gadgetCrd, widgetCrd } from '../support/widget-crds.ts';

apiContract('the embedded server', () => standaloneTarget([widgetCrd, gadgetCrd]));
