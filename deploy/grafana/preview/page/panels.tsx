// Each type of panel, as Grafana's panel of that name shows it: the same components, with the same options left out.

import {
  arrayToDataFrame,
  DataFrame,
  DisplayValueAlignmentFactors,
  FieldConfigSource,
  FieldDisplay,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  GrafanaTheme2,
  ReduceDataOptions,
  renderTextPanelMarkdown,
  TimeRange,
  VizOrientation,
} from '@grafana/data';
import { BarGaugeDisplayMode, BarGaugeNamePlacement, BarGaugeValueMode, VizLegendOptions } from '@grafana/schema';
import {
  BarGauge,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  EventsCanvas,
  Gauge,
  Table,
  TimeSeries,
  UPlotConfigBuilder,
  VizRepeater,
  VizRepeaterRenderValueProps,
} from '@grafana/ui';
import { useLayoutEffect, useRef } from 'react';
import type uPlot from 'uplot';

import { Exemplar, Panel } from './asked';

export interface Shown {
  panel: Panel;
  data: DataFrame[];
  fieldConfig: FieldConfigSource;
  width: number;
  height: number;
  theme: GrafanaTheme2;
  range: TimeRange;
  replaceVariables: (text: string) => string;
}

type Options = Record<string, any>; // Grafana checks them no more than this

const REDUCE: ReduceDataOptions = { values: false, calcs: ['lastNotNull'] };

const KINDS: Record<string, (shown: WithOptions) => JSX.Element> = {
  timeseries: Lines,
  stat: Stat,
  gauge: Dial,
  bargauge: Bars,
  table: Cells,
};

export function refuseUnknown({ type, title }: Panel) {
  if (!(type in KINDS) && type !== 'row' && type !== 'text') {
    throw new Error(`A panel of type ${type} can't be shown: "${title}"`);
  }
}

export function Content(shown: Shown) {
  const { panel, data } = shown;
  const options: Options = panel.options ?? {};
  if (panel.type === 'text') {
    const html = { __html: renderTextPanelMarkdown(options.content ?? '') };
    return <div className="markdown-html" dangerouslySetInnerHTML={html} />;
  }
  const noValue = shown.fieldConfig.defaults.noValue;
  const single = panel.type === 'stat' || panel.type === 'gauge' || panel.type === 'bargauge';
  if (!data.some((frame) => frame.length > 0) && !(single && noValue)) {
    return <Middle>{noValue ?? 'No data'}</Middle>;
  }
  const Kind = KINDS[panel.type];
  return <Kind {...shown} options={options} />;
}

interface WithOptions extends Shown {
  options: Options;
}

function Middle({ children }: { children: React.ReactNode }) {
  return (
    <div className="no-data" style={{ height: '100%', display: 'grid', placeItems: 'center' }}>
      {children}
    </div>
  );
}

function Lines({ panel, data, width, height, range, options, theme }: WithOptions) {
  const legend: VizLegendOptions = {
    showLegend: true,
    displayMode: 'list',
    placement: 'bottom',
    calcs: [],
    ...options.legend,
  };
  const exemplars = panel.answers.flatMap((answer) => answer.exemplars);
  return (
    <TimeSeries
      frames={data}
      structureRev={1}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={legend}
      options={options}
    >
      {(config: UPlotConfigBuilder) => <Diamonds exemplars={exemplars} config={config} theme={theme} />}
    </TimeSeries>
  );
}

function Diamonds({ exemplars, config, theme }: { exemplars: Exemplar[]; config: UPlotConfigBuilder; theme: GrafanaTheme2 }) {
  const plot = useRef<uPlot>();
  useLayoutEffect(() => config.addHook('init', (made) => (plot.current = made)), [config]);
  return (
    <EventsCanvas
      id="exemplars"
      config={config}
      events={[arrayToDataFrame(exemplars)]}
      renderEventMarker={() => (
        <svg className="exemplar" viewBox="0 0 8 8" width={7} height={7} style={{ display: 'block', transform: 'translate(-50%, -50%)' }}>
          <path d="M4 0 L8 4 L4 8 L0 4 Z" fill={theme.v1.palette.blue95} stroke="none" />
        </svg>
      )}
      mapEventToXYCoords={(_, { fieldIndex }) => {
        const exemplar = exemplars[fieldIndex];
        const scale = config.scaleKeys[1];
        const { min = 0, max = 0 } = plot.current?.scales[scale] ?? {};
        if (!plot.current || !exemplar) {
          return undefined;
        }
        const value = Math.min(Math.max(Number(exemplar.value), min), max);
        return { x: plot.current.valToPos(exemplar.timestamp * 1000, 'x'), y: plot.current.valToPos(value, scale) };
      }}
    />
  );
}

function values({ data, fieldConfig, options, theme, replaceVariables, range }: WithOptions, sparkline = false) {
  const found = getFieldDisplayValues({
    data,
    fieldConfig,
    reduceOptions: { ...REDUCE, ...options.reduceOptions },
    replaceVariables,
    theme,
    sparkline,
    timeZone: 'utc',
  });
  for (const { sparkline: line } of found) {
    if (line) {
      line.timeRange = range;
    }
  }
  return found;
}

type Render = VizRepeaterRenderValueProps<FieldDisplay, DisplayValueAlignmentFactors>;

function Each(props: {
  shown: WithOptions;
  sparkline?: boolean;
  autoGrid?: boolean;
  itemSpacing?: number;
  minVizHeight?: number;
  maxVizHeight?: number;
  minVizWidth?: number;
  orientation?: VizOrientation;
  children: (value: Render) => JSX.Element;
}) {
  const { shown, sparkline, children, orientation, ...rest } = props;
  return (
    <VizRepeater<FieldDisplay, DisplayValueAlignmentFactors>
      {...rest}
      itemSpacing={props.itemSpacing ?? 8}
      source={shown.data}
      renderCounter={0}
      width={shown.width}
      height={shown.height}
      orientation={orientation ?? shown.options.orientation ?? VizOrientation.Auto}
      getValues={() => values(shown, sparkline)}
      getAlignmentFactors={(all) => getDisplayValueAlignmentFactors(all)}
      renderValue={children}
    />
  );
}

function untitled(count: number, { display, field }: FieldDisplay) {
  // Whoever is alone needs no name, unless the dashboard gives it one.
  return count === 1 && !field.displayName ? { ...display, title: undefined } : display;
}

function Stat(shown: WithOptions) {
  const { options, theme } = shown;
  const graphMode = options.graphMode ?? BigValueGraphMode.Area;
  return (
    <Each shown={shown} sparkline={graphMode !== BigValueGraphMode.None} autoGrid>
      {({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          value={value.display}
          count={count}
          sparkline={value.sparkline}
          colorMode={options.colorMode ?? BigValueColorMode.Value}
          graphMode={graphMode}
          justifyMode={options.justifyMode ?? BigValueJustifyMode.Auto}
          textMode={options.textMode ?? BigValueTextMode.Auto}
          alignmentFactors={alignmentFactors}
          text={options.text}
          disableWideLayout={options.wideLayout === false}
          percentChangeColorMode={options.percentChangeColorMode}
          width={width}
          height={height}
          theme={theme}
        />
      )}
    </Each>
  );
}

function Dial(shown: WithOptions) {
  const { options, theme } = shown;
  return (
    <Each shown={shown} autoGrid>
      {({ value, width, height, count }) => (
        <Gauge
          value={untitled(count, value)}
          field={value.field}
          width={width}
          height={height}
          text={options.text}
          showThresholdLabels={options.showThresholdLabels ?? false}
          showThresholdMarkers={options.showThresholdMarkers ?? true}
          theme={theme}
        />
      )}
    </Each>
  );
}

function Bars(shown: WithOptions) {
  const { options, theme } = shown;
  const displayMode = options.displayMode ?? BarGaugeDisplayMode.Gradient;
  return (
    <Each
      shown={shown}
      itemSpacing={displayMode === BarGaugeDisplayMode.Lcd ? 2 : 10}
      minVizWidth={options.minVizWidth ?? 8}
      minVizHeight={options.minVizHeight ?? 16}
      maxVizHeight={options.maxVizHeight ?? 300}
    >
      {({ value, width, height, orientation, alignmentFactors, count }) => (
        <BarGauge
          value={untitled(count, value)}
          field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex ?? 0)}
          width={width}
          height={height}
          orientation={orientation}
          text={options.text}
          itemSpacing={displayMode === BarGaugeDisplayMode.Lcd ? 2 : 10}
          displayMode={displayMode}
          alignmentFactors={count > 1 ? alignmentFactors : undefined}
          showUnfilled={options.showUnfilled ?? true}
          valueDisplayMode={options.valueMode ?? BarGaugeValueMode.Color}
          namePlacement={options.namePlacement ?? BarGaugeNamePlacement.Auto}
          isOverflow={false}
          theme={theme}
        />
      )}
    </Each>
  );
}

function Cells({ data, width, height, options, fieldConfig }: WithOptions) {
  return (
    <Table
      data={data[options.frameIndex ?? 0]}
      width={width}
      height={height}
      noHeader={options.showHeader === false}
      showTypeIcons={options.showTypeIcons}
      initialSortBy={options.sortBy}
      cellHeight={options.cellHeight}
      enablePagination={options.footer?.enablePagination}
      footerOptions={options.footer?.show ? options.footer : undefined}
      fieldConfig={fieldConfig}
      resizable={false}
    />
  );
}
