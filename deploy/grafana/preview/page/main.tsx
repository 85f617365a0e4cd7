// Shows one dashboard in Grafana's grid of 24 columns, and says at <html data-ready> when all of it is there.

import { createTheme, dateTime, DataFrame, FieldConfigSource, ThemeContext, TimeRange } from '@grafana/data';
import { GlobalStyles, Icon, PanelChrome, PortalContainer, ToolbarButton } from '@grafana/ui';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';

import { Dashboard, Panel } from './asked';
import { configured } from './fields';
import { frames } from './frames';
import './gauge';
import { Content, refuseUnknown } from './panels';

const COLUMNS = 24;
const ROW = 30;
const GAP = 8;
const EDGE = 16;

const theme = createTheme({ colors: { mode: 'dark' } });

interface Ready {
  panel: Panel;
  data: DataFrame[];
  fieldConfig: FieldConfigSource;
}

function Themed({ children }: { children: React.ReactNode }) {
  return <ThemeContext.Provider value={theme}>{children}</ThemeContext.Provider>;
}

function Header({ dashboard }: { dashboard: Dashboard }) {
  const { colors, shape } = theme;
  const box = {
    display: 'inline-flex',
    alignItems: 'center',
    height: 32,
    padding: '0 8px',
    border: `1px solid ${colors.border.weak}`,
    fontSize: 12,
  };
  const seconds = Math.round(dashboard.to - dashboard.from);
  const last = seconds % 60 === 0 ? `${seconds / 60} minute${seconds === 60 ? '' : 's'}` : `${seconds} seconds`;
  return (
    <div style={{ padding: `12px ${EDGE}px 0`, display: 'grid', gap: 12 }}>
      <div style={{ display: 'flex', alignItems: 'center', gap: 8 }}>
        <span style={{ color: colors.text.secondary }}>Home&ensp;›&ensp;Dashboards&ensp;›</span>
        <span style={{ fontWeight: 500 }}>{dashboard.title}</span>
        <span style={{ flex: 1 }} />
        {dashboard.links.map((title) => (
          <ToolbarButton key={title} icon="external-link-alt" variant="canvas">
            {title}
          </ToolbarButton>
        ))}
        <ToolbarButton icon="clock-nine" variant="canvas" isOpen={false}>
          Last {last}
        </ToolbarButton>
      </div>
      <div style={{ display: 'flex', flexWrap: 'wrap', gap: 8 }}>
        {dashboard.variables.map(({ label, value }) => (
          <span key={label} style={{ display: 'inline-flex' }}>
            <span style={{ ...box, background: colors.background.secondary, fontWeight: 500, borderRight: 0 }}>{label}</span>
            <span style={{ ...box, background: colors.background.canvas, gap: 12, borderRadius: shape.radius.default }}>
              {value}
              <Icon name="angle-down" />
            </span>
          </span>
        ))}
      </div>
    </div>
  );
}

function Row({ title }: { title: string }) {
  return (
    <h6 style={{ display: 'flex', alignItems: 'center', gap: 8, margin: 0, height: '100%', fontSize: 16 }}>
      <Icon name="angle-down" /> {title}
    </h6>
  );
}

function Grid({ ready, dashboard, width }: { ready: Ready[]; dashboard: Dashboard; width: number }) {
  const from = dateTime(dashboard.from * 1000);
  const to = dateTime(dashboard.to * 1000);
  const range: TimeRange = { from, to, raw: { from, to } };
  const column = (width - 2 * EDGE - (COLUMNS - 1) * GAP) / COLUMNS;
  const bottom = Math.max(0, ...ready.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  return (
    <div style={{ position: 'relative', height: bottom * (ROW + GAP), margin: EDGE }}>
      {ready.map(({ panel, data, fieldConfig }) => {
        const { x, y, w, h } = panel.gridPos;
        const place = {
          left: x * (column + GAP),
          top: y * (ROW + GAP),
          width: w * column + (w - 1) * GAP,
          height: h * ROW + (h - 1) * GAP,
        };
        return (
          <div key={panel.id} id={`panel-${panel.id}`} style={{ position: 'absolute', ...place }}>
            {panel.type === 'row' ? (
              <Row title={panel.title} />
            ) : (
              <PanelChrome
                title={panel.title}
                description={panel.description}
                displayMode={panel.transparent ? 'transparent' : 'default'}
                width={place.width}
                height={place.height}
              >
                {(innerWidth, innerHeight) => (
                  <Content
                    panel={panel}
                    data={data}
                    fieldConfig={fieldConfig}
                    width={innerWidth}
                    height={innerHeight}
                    theme={theme}
                    range={range}
                    replaceVariables={(text) => text}
                  />
                )}
              </PanelChrome>
            )}
          </div>
        );
      })}
    </div>
  );
}

async function show() {
  const dashboard: Dashboard = await (await fetch('dashboard.json')).json();
  dashboard.panels.forEach(refuseUnknown);
  const ready = await Promise.all(
    dashboard.panels.map(async (panel) => ({
      panel,
      ...configured(
        panel.type,
        await frames(panel.answers, panel.transformations),
        panel.fieldConfig,
        theme,
        (text) => text
      ),
    }))
  );
  // Text is measured to lay panels out, so the fonts must be there first.
  flushSync(() => createRoot(document.getElementById('styles')!).render(<Themed><GlobalStyles /></Themed>));
  await Promise.all(['400 14px Inter', '500 14px Inter', '400 14px "Roboto Mono"'].map((font) => document.fonts.load(font)));
  createRoot(document.getElementById('page')!).render(
    <Themed>
      <Header dashboard={dashboard} />
      <Grid ready={ready} dashboard={dashboard} width={document.documentElement.clientWidth} />
      <PortalContainer />
    </Themed>
  );
}

async function settled() {
  // Icons come by requests of their own, and sizes are looked at after the first drawing.
  let before = -1;
  for (let quiet = 0; quiet < 5; ) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    await document.fonts.ready;
    const now = document.querySelectorAll('*').length;
    quiet = now === before ? quiet + 1 : 0;
    before = now;
  }
}

show()
  .then(settled)
  .then(
    () => (document.documentElement.dataset.ready = 'yes'),
    (error) => (document.documentElement.dataset.ready = String(error))
  );
